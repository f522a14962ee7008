"""A checkpoint is described and compared with torch; whatever differs is found."""

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from experiments.inputs import check_model
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import Folder, open_folder

ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A folder with a random language model, untied, and no tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=70,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        intermediate_size=40,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A folder with a random GPT-2 that has 8 learned positions, and no tokenizer."""
    folder = tmp_path_factory.mktemp("short")
    GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_embd=12, n_layer=1, n_head=2, n_positions=8)
    ).save_pretrained(folder)
    return folder


def with_tokenizer(folder: Path, tokenizer: Path, output: Path) -> Path:
    """A copy of a model with the tokenizer of another."""
    shutil.copytree(folder, output)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, output)
    return output


@pytest.fixture
def altered(monkeypatch):
    """Make our model one with a changed weight."""

    def alter(path: str, change) -> None:
        def load(folder: Folder, **keywords):
            model = original(folder, **keywords)
            weights = parameters.weights(model)
            parameters.put(model, weights | {path: change(weights[path])})
            return model

        original = loading.load
        monkeypatch.setattr(loading, "load", load)

    return alter


def test_encoder_agrees_on_sentences(tiny, capsys):
    assert check_model.check(open_folder(tiny), tolerance=TOLERANCE) == 0
    output = capsys.readouterr().out
    assert re.match(r"agrees with transformers on \d{3} tokens of 6 sentences: 3 outputs", output)


def test_decoder_without_a_tokenizer_agrees_on_random_tokens_and_logits(llama, capsys):
    assert check_model.check(open_folder(llama), tolerance=TOLERANCE) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"no tokenizer in {llama}: comparing on random tokens"
    assert second.startswith("agrees with transformers on 84 tokens of 3 sentences: 4 outputs")


@pytest.mark.parametrize("padding", [1, 7])
def test_random_tokens_are_none_that_the_model_does_not_take(tmp_path, padding):
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    raw = {"model_type": "roberta", "vocab_size": 9, "intermediate_size": 12} | sizes
    raw["max_position_embeddings"] = 80
    (tmp_path / "config.json").write_text(json.dumps(raw | {"pad_token_id": padding}))
    drawn = itertools.chain(*check_model.sentences(open_folder(tmp_path)))
    assert set(drawn) == set(range(2, 9)) - {padding}


def test_random_tokens_are_no_more_than_there_are_positions(short, capsys):
    assert check_model.check(open_folder(short), tolerance=TOLERANCE) == 0
    assert "agrees with transformers on 21 tokens of 3 sentences" in capsys.readouterr().out


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(llama, tiny, tmp_path):
    folder = with_tokenizer(llama, tiny, tmp_path / "model")
    message = (
        r"^the tokenizer gives token id \d+, .* ids below 70: the tokenizer is not this model's$"
    )
    with pytest.raises(ValueError, match=message):
        check_model.check(open_folder(folder), tolerance=TOLERANCE)


def test_sentences_longer_than_the_model_has_positions_are_named(short, tiny, tmp_path):
    folder = with_tokenizer(short, tiny, tmp_path / "model")
    message = r"^a sentence must have 1 to 8 tokens, .* got:\n  eng_Latn: \d+ tokens\n  zho_Hans: "
    with pytest.raises(ValueError, match=message):
        check_model.check(open_folder(folder), tolerance=TOLERANCE)


def test_a_misshapen_tensor_is_one_line_of_ours(llama, tmp_path):
    """Not an error of transformers, which would end in a traceback."""
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(23, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.norm\.weight") as error:
        check_model.check(open_folder(folder), tolerance=TOLERANCE)
    assert "23" in str(error.value)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("layers/1/attn/k/kernel", lambda weight: weight.at[3].multiply(1.01)),
        ("head/out/kernel", lambda weight: weight[:, ::-1]),
        ("norm/scale", lambda weight: weight.at[0].set(jnp.nan)),
    ],
)
def test_a_weight_that_is_not_the_checkpoints_is_found(llama, capsys, altered, path, change):
    altered(path, change)
    assert check_model.check(open_folder(llama), tolerance=TOLERANCE) == check_model.DISAGREE
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("DISAGREES with transformers")
    found = {line.split(":")[0] for line in lines[2:]}
    expected = {"layers/1/attn/k/kernel": {"state 2", "logits"}, "head/out/kernel": {"logits"}}
    assert found == expected.get(path, {"state 2", "logits"})


def test_without_torch_there_is_nothing_to_compare_with(llama, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert check_model.check(open_folder(llama), tolerance=TOLERANCE) == check_model.NOT_COMPARED
    assert capsys.readouterr().out == "not compared: torch is not installed\n"


def test_states_of_another_width_are_left_to_the_logits():
    state, logits = np.ones((2, 4)), np.ones((2, 9))
    ours = check_model.States([state, state], logits)
    theirs = check_model.States([state, state[:, :2]], logits * 2)
    assert check_model.compare([ours], [theirs]) == {"state 0": 0.0, "logits": 0.5}


def test_summary_of_one_device(llama):
    lines = check_model.summary(
        open_folder(llama), mesh="1x1", fsdp=False, dtype="bfloat16"
    ).splitlines()
    assert lines == [
        "family      llama, LlamaForCausalLM",
        "blocks      2, 24 wide, causal",
        "attention   grouped-query (6/3 of 4)",
        "positions   RoPE 10000",
        "norms       RMSNorm, pre, eps 1e-06",
        "mlp         gated silu, 40 wide",
        "embedding   70 tokens",
        "head        its own matrix",
        "parameters  12,696",
        "memory      0.0 MiB of bfloat16 weights on each device of a 1x1 mesh (data x model)",
    ]


def test_memory_is_that_of_the_largest_share(llama):
    """Embedding and head 70 x 24, two blocks of 4,608 (attention 1,728), norms 5 x 24."""
    config = open_folder(llama).config

    def held(mesh: str, *, fsdp: bool = False) -> tuple[int, int]:
        return check_model.memory(config, check_model.parse_mesh(mesh), fsdp=fsdp, dtype="float32")

    assert held("1x1") == held("8x1") == (12_696, 4 * 12_696)
    assert held("4x1", fsdp=True) == (12_696, 4 * (120 + (12_696 - 120) // 4))
    assert held("1x2") == (12_696, 4 * (120 + 3360 // 2 + 2 * (2880 // 2 + 1152 // 2 + 576)))


def test_what_is_not_split_is_said(llama):
    text = check_model.summary(open_folder(llama), mesh="1x4", fsdp=False, dtype="float32")
    assert text.splitlines()[-1] == (
        "not split   head (6), kv (3), vocab (70): no multiple of 4; "
        "vocab matrices are split along dim"
    )


@pytest.mark.parametrize("mesh", ["", "8", "0x8", "2x", "2x4x1", "-1x2", "2 x 4"])
def test_malformed_mesh_is_refused(mesh):
    with pytest.raises(ValueError, match=rf"^mesh must be DATAxMODEL such as 2x4, got '{mesh}'$"):
        check_model.parse_mesh(mesh)


@pytest.mark.slow
def test_exit_status_tells_a_script(llama, tmp_path):
    folder = Path(shutil.copytree(llama, tmp_path / "odd"))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"use_moon_phase": True}))
    command = [sys.executable, "-m", "experiments.inputs.check_model", "--model"]
    allowed = [*command, str(folder), "--ignore_keys", "use_moon_phase"]
    good = subprocess.run(allowed, cwd=ROOT, capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
