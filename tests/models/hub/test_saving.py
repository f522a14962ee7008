import dataclasses
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from ilo_jax.corpora.packing import Rows
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub import checkpoint, loading, repository, saving
from ilo_jax.models.hub.families import FAMILIES, read_config
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from tests.models.hub.families.rows import RAW
from tests.models.hub.same import ONE, assert_same_weights
from tests.models.variants import TOLERANCE, UNLIKE, slow_but


def like(folder: str | Path) -> dict[str, Any]:
    """Return what `save` takes over from a folder."""
    opened = open_folder(folder)
    return {"raw": opened.raw, "beside": opened.path}


@pytest.mark.parametrize("variant", slow_but(UNLIKE))
def test_saved_model_is_the_same_in_torch_and_in_ours(tiny, ours, tmp_path, variant):
    theirs = tiny(variant).torch
    saving.save(
        ours(variant),
        tmp_path / "saved",
        **like(tiny(variant).folder),
        file_bytes=20_000,
    )
    assert len(checkpoint.weight_files(tmp_path / "saved")) > 1
    assert_same_weights(loading.load(open_folder(tmp_path / "saved"), mesh=ONE), ours(variant))
    back, report = type(theirs).from_pretrained(tmp_path / "saved", output_loading_info=True)
    placed, expected = back.state_dict(), theirs.state_dict()
    assert placed.keys() == expected.keys()
    assert all("pooler" in name for name in report["missing_keys"])
    assert not report["unexpected_keys"]
    for name, tensor in expected.items():
        assert torch.equal(placed[name], tensor) or "pooler" in name, name


def test_saved_bfloat16_keeps_its_bits(tiny, tmp_path):
    folder = tiny("gpt_neox-quarter").folder
    model = loading.load(open_folder(folder), mesh=ONE, dtype=jnp.bfloat16)
    saving.save(model, tmp_path / "saved", **like(folder))
    assert open_folder(tmp_path / "saved").raw["dtype"] == "bfloat16"
    assert_same_weights(
        loading.load(open_folder(tmp_path / "saved"), mesh=ONE, dtype=jnp.bfloat16), model
    )
    back = type(tiny("gpt_neox-quarter").torch).from_pretrained(tmp_path / "saved", dtype="auto")
    for name, tensor in tiny("gpt_neox-quarter").torch.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor.bfloat16()), name


def test_saved_from_a_mesh_is_gathered(tiny, ours, tmp_path):
    folder = tiny("bloom-four").folder
    model = loading.load(open_folder(folder), mesh=make_mesh(data=2, model=2), fsdp=True)
    saving.save(model, tmp_path / "saved", **like(folder))
    assert_same_weights(loading.load(open_folder(tmp_path / "saved"), mesh=ONE), ours("bloom-four"))


def test_tokenizer_is_carried_along(tokenized, ours, tmp_path):
    (tokenized / "tokenizer-files").mkdir()
    (tokenized / "modeling.py").write_text("raise SystemExit")
    saving.save(
        ours("llama-gqa"),
        tmp_path / "saved",
        **like(tokenized),
    )
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (tmp_path / "saved/tokenizer.json").read_text() == (
        tokenized / "tokenizer.json"
    ).read_text()
    mode = tokenized.joinpath("config.json").stat().st_mode
    assert {file.stat().st_mode for file in (tmp_path / "saved").iterdir()} == {mode}


def test_all_that_a_tokenizer_reads_is_carried_along(copied, ours, tmp_path):
    folder = copied("llama-gqa")
    beside = ["bpe.codes", "vocab.txt", "tekken.json", "additional_chat_templates/tool.jinja"]
    (folder / "additional_chat_templates").mkdir()
    for name in beside:
        (folder / name).write_text(name)
    # What a folder names, too, but never in the place of what was made anew.
    named = {"own_files": ["mine.lex", "config.json", "model.safetensors"]}
    for name in ("mine.lex", "model.safetensors"):
        (folder / name).write_text("of another")
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    saving.save(ours("llama-gqa"), tmp_path / "saved", **like(folder))
    assert [(tmp_path / "saved" / name).read_text() for name in beside] == beside
    assert (tmp_path / "saved/mine.lex").is_file()
    assert_same_weights(loading.load(open_folder(tmp_path / "saved"), mesh=ONE), ours("llama-gqa"))
    fetched = [*beside, "LICENSE.txt", "generation_config.json", "chat_template.jinja"]
    assert all(any(fnmatch(name, p) for p in repository.FETCHED) for name in fetched)


def test_nothing_is_overwritten(tiny, ours, tmp_path):
    (tmp_path / "saved").mkdir()
    message = f"{tmp_path / 'saved'} is there already; save to a new folder"
    with pytest.raises(FileExistsError, match=f"^{re.escape(message)}$"):
        saving.save(
            ours("llama-gqa"),
            tmp_path / "saved",
            **like(tiny("llama-gqa").folder),
        )


def test_a_save_that_was_stopped_leaves_nothing(tiny, ours, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    folder = tiny("llama-gqa").folder
    monkeypatch.setattr(saving, "_finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        saving.save(ours("llama-gqa"), tmp_path / "saved", **like(folder))
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_on_another_process_leaves_nothing(tiny, ours, tmp_path, monkeypatch):
    """The first process has made its folder when it hears that another could not begin."""

    def together(begin, *, what):
        begin()
        assert list(tmp_path.iterdir())
        raise RuntimeError(f"{what} failed on process [1]")

    monkeypatch.setattr(saving, "together", together)
    with pytest.raises(RuntimeError, match=r"saved failed on process \[1\]$"):
        saving.save(ours("llama-gqa"), tmp_path / "saved", **like(tiny("llama-gqa").folder))
    assert not list(tmp_path.iterdir())


def test_save_without_a_parent_is_refused(tiny, ours, tmp_path):
    message = f"no folder {tmp_path / 'absent'} to save mine in"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        saving.save(
            ours("llama-gqa"),
            tmp_path / "absent/mine",
            **like(tiny("llama-gqa").folder),
        )


def test_save_does_not_follow_a_link_that_leads_nowhere(tiny, ours, tmp_path):
    (tmp_path / "saved").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="saved is there already"):
        saving.save(
            ours("llama-gqa"),
            tmp_path / "saved",
            **like(tiny("llama-gqa").folder),
        )
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]


def test_saved_classifier_is_called_the_backbone_it_is(copied, tmp_path):
    file = copied("bert-model") / "config.json"
    raw = {"architectures": ["BertForSequenceClassification"], "dtype": "float32"}
    file.write_text(json.dumps(json.loads(file.read_text()) | raw))
    saving.save(
        loading.load(open_folder(file.parent), mesh=ONE),
        tmp_path / "saved",
        **like(file.parent),
    )
    assert open_folder(tmp_path / "saved").raw["architectures"] == ["BertModel"]


def test_model_of_another_configuration_is_not_saved(tiny, ours, tmp_path):
    other = tiny("llama-mha").folder
    message = "the model to be saved is not of the config.json that is given: they differ in blocks"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        saving.save(ours("llama-gqa"), tmp_path / "saved", **like(other))
    assert not list(tmp_path.iterdir())


def test_folder_may_be_a_string(tiny, ours, tmp_path):
    folder = str(tiny("llama-gqa").folder)
    saving.save(
        loading.load(open_folder(folder), mesh=ONE),
        str(tmp_path / "saved"),
        **like(folder),
    )
    assert_same_weights(
        loading.load(open_folder(str(tmp_path / "saved")), mesh=ONE), ours("llama-gqa")
    )


# Models that no folder is like


def drawn(config: ModelConfig, *, seed: int) -> Transformer:
    """Return a model of a configuration, whose every weight is drawn, biases and norms too."""
    shapes = parameters.shapes(parameters.abstract(config, dtype=jnp.float32))
    rng = np.random.default_rng(seed)
    weights = {
        path: jnp.asarray(rng.normal(size=s.shape) / 8, s.dtype) for path, s in shapes.items()
    }
    return parameters.assembled(parameters.abstract(config, dtype=jnp.float32), weights)


def assert_same_logits(model: Transformer, folder: Path, auto: Any) -> None:
    """What torch makes of a saved folder, against what our model makes of the same tokens."""
    theirs, report = auto.from_pretrained(folder, output_loading_info=True)
    # Of no use to torch where the head is a matrix with a bias of its own.
    assert report["missing_keys"] <= {"cls.predictions.bias"}
    assert not report["unexpected_keys"]
    tokens = np.random.default_rng(0).integers(2, model.config.vocab, (1, 7))
    tokens[0, -1] = model.config.vocab - 1
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(tokens)).logits.numpy()
    rows = Rows(tokens, np.arange(7)[None], *(np.ones((3, 1, 7), np.int32)))
    got = model.logits(model.run(jax.tree.map(jnp.asarray, rows))[0])
    assert np.abs(got - expected).max() <= TOLERANCE * max(1, np.abs(expected).max())


@pytest.mark.parametrize("named", [{}, {"architectures": ["LlamaForCausalLM"]}])
def test_a_backbone_is_one_to_torch(tmp_path, named):
    """Whatever the config.json that is given says of the head, or if it says nothing."""
    raw = RAW["llama"] | {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    model = drawn(read_config(raw | {"architectures": ["LlamaModel"]}), seed=1)
    saving.save(model, tmp_path / "saved", raw=raw | named)
    assert_same_weights(loading.load(open_folder(tmp_path / "saved"), mesh=ONE), model)
    _, report = AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


LANGUAGE_MODELS = {
    "llama": AutoModelForCausalLM,
    "gpt2": AutoModelForCausalLM,
    "bert": AutoModelForMaskedLM,
}


@pytest.mark.parametrize(
    "vocab",
    [pytest.param(64, marks=pytest.mark.slow), 101, pytest.param(37, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("kind", ["tied", "own"])
@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
def test_another_vocabulary_and_head_are_what_torch_computes(tmp_path, model_type, kind, vocab):
    """Of a model that never was a folder: only the config.json of its family is given."""
    raw = RAW[model_type] | {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    config = read_config(raw | {"architectures": [FAMILIES[model_type].language_model]})
    config = dataclasses.replace(
        config,
        embedding=dataclasses.replace(config.embedding, vocab=vocab),
        head=dataclasses.replace(config.head, kind=kind),
    )
    model = drawn(config, seed=1)
    saving.save(model, tmp_path / "saved", raw=raw)
    assert_same_weights(loading.load(open_folder(tmp_path / "saved"), mesh=ONE), model)
    assert_same_logits(model, tmp_path / "saved", LANGUAGE_MODELS[model_type])
