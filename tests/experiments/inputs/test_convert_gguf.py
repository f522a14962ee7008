import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from experiments.inputs import convert_gguf
from experiments.inputs.convert_gguf import convert

ROOT = Path(__file__).parents[3]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "a b", "1 2", "Ġ ab"]


def llama(*, tied: bool = True) -> LlamaForCausalLM:
    """A tiny model of which every weight is random."""
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=2.0**-17,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order: it rotates neighbours, where transformers rotates halves."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The weights by GGUF's names and in its order."""
    named = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        if "q_proj" in name:
            weight = permuted(weight, model.config.num_attention_heads)
        if "k_proj" in name:
            weight = permuted(weight, model.config.num_key_value_heads or 0)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        named[name] = weight
    return named


def write(
    path: Path,
    model: LlamaForCausalLM | None = None,
    *,
    split: str = "smollm",
    add_bos: bool = False,
    without: str = "",
    extra: str = "",
) -> Path:
    """Write the model and a byte-level tokenizer as llama.cpp's converter would."""
    model = model or llama()
    writer = gguf.GGUFWriter(path, "llama")
    write_sizes(writer, model.config)
    write_tokenizer(writer, split=split, add_bos=add_bos)
    weights = tensors(model) | ({extra: np.ones(4, np.float32)} if extra else {})
    for name, weight in weights.items():
        if name != without:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_sizes(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or 0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(50000.0)
    writer.add_vocab_size(config.vocab_size)


def write_tokenizer(writer: gguf.GGUFWriter, *, split: str, add_bos: bool) -> None:
    letters = [*(chr(c) for c in range(33, 127)), *(chr(c) for c in range(161, 173))]
    letters += [*(chr(c) for c in range(174, 256)), *(chr(c) for c in range(256, 324))]
    tokens = [*SPECIAL, *letters, *(merge.replace(" ", "") for merge in MERGES), "<pad>"]
    writer.add_tokenizer_model("gpt2")
    if split:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * 260, 5])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(add_bos)


def tokens(folder: Path, text: str) -> list[str]:
    return AutoTokenizer.from_pretrained(folder)(text).tokens()


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_the_models_bit_for_bit(tmp_path: Path, tied: bool):
    model = llama(tied=tied)
    converted = convert(write(tmp_path / "tiny.gguf", model), tmp_path / "out")
    want = dict(model.named_parameters())
    assert ("lm_head.weight" in want) != tied
    for got in (load_file(tmp_path / "out/model.safetensors"), dict(converted.named_parameters())):
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in want)
        assert {weight.dtype for weight in got.values()} == {torch.float32}


@pytest.mark.parametrize("tied", [True, False])
def test_config_is_the_models(tmp_path: Path, tied: bool):
    model = llama(tied=tied)
    convert(write(tmp_path / "tiny.gguf", model), tmp_path / "out")
    want = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    got = json.loads((tmp_path / "out/config.json").read_text())
    assert got == {name: want[name] for name in got}
    assert got["tie_word_embeddings"] == tied
    assert got["rope_parameters"] == {"rope_type": "default", "rope_theta": 50000.0}
    assert {"head_dim", "rms_norm_eps", "num_key_value_heads", "vocab_size"} <= got.keys()


def test_folder_computes_what_the_model_does(tmp_path: Path):
    model = llama().eval()
    convert(write(tmp_path / "tiny.gguf", model), tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[1, 7, 200, 31]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_digits_stand_alone_where_the_file_says_so(tmp_path: Path):
    convert(write(tmp_path / "tiny.gguf", split="smollm"), tmp_path / "out")
    assert tokens(tmp_path / "out", "ab ab12") == ["ab", "Ġab", "1", "2"]
    assert tokens(tmp_path / "out", "ab  12") == ["ab", "ĠĠ", "1", "2"]
    assert tokens(tmp_path / "out", "<|im_start|>ab") == ["<|im_start|>", "ab"]


@pytest.mark.parametrize("split", ["gpt-2", ""])
def test_digits_stay_together_elsewhere(tmp_path: Path, split: str):
    convert(write(tmp_path / "tiny.gguf", split=split), tmp_path / "out")
    assert tokens(tmp_path / "out", "ab  12") == ["ab", "Ġ", "Ġ", "12"]


def test_split_that_transformers_knows_is_kept(tmp_path: Path):
    convert(write(tmp_path / "tiny.gguf", split="llama-bpe"), tmp_path / "out")
    text = json.loads((tmp_path / "out/tokenizer.json").read_text())
    assert text["pre_tokenizer"]["pretokenizers"][0]["type"] == "Split"


@pytest.mark.parametrize("add_bos", [True, False])
def test_bos_is_added_where_the_file_says_so(tmp_path: Path, add_bos: bool):
    convert(write(tmp_path / "tiny.gguf", add_bos=add_bos), tmp_path / "out")
    assert tokens(tmp_path / "out", "ab") == ["<|im_start|>"] * add_bos + ["ab"]


@pytest.mark.parametrize("name", ["model.whl", "model.zip"])
def test_archive_with_one_file(tmp_path: Path, name: str):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.write(write(tmp_path / "tiny.gguf"), "deep/inside/tiny.gguf")
        archive.writestr("README", "not a model")
    convert(tmp_path / name, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {name, "tiny.gguf", "out"}


def test_overwrite_replaces_a_model_only(tmp_path: Path):
    file = write(tmp_path / "tiny.gguf")
    output = tmp_path / "deep/out"
    convert(file, output)
    (output / "stale").touch()
    with pytest.raises(FileExistsError, match=r"out exists; --overwrite replaces it"):
        convert(file, output)
    convert(file, output, overwrite=True)
    assert not (output / "stale").exists()
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    (output / "config.json").unlink()
    with pytest.raises(FileExistsError, match=r"out is not replaced: it holds no config\.json"):
        convert(file, output, overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "mystery"}, r"tokenizer\.ggml\.pre is 'mystery'.*known here: codeshell, "),
        ({"without": "blk.1.ffn_down.weight"}, r"llama: .*missing_keys.*layers\.1\.mlp\.down_proj"),
        ({"extra": "rope_freqs.weight"}, r"scales its rotary positions \(rope_freqs\.weight\)"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path: Path, arguments: dict, message: str):
    file = write(tmp_path / "tiny.gguf", **arguments)
    with pytest.raises(ValueError, match=message):
        convert(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("names", "found"), [([], "none"), (["a.gguf", "b.gguf"], "a.gguf, b.gg")])
def test_archive_must_hold_one_file(tmp_path: Path, names: list[str], found: str):
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as archive:
        for name in names:
            archive.writestr(name, "")
    with pytest.raises(ValueError, match=rf"model\.whl must hold one \.gguf file, got {found}"):
        convert(tmp_path / "model.whl", tmp_path / "out")


def test_file_must_be_there_and_of_a_known_kind(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*tiny\.gguf"):
        convert(tmp_path / "tiny.gguf", tmp_path / "out")
    (tmp_path / "tiny.bin").touch()
    with pytest.raises(ValueError, match=r"\.gguf file is expected, or .* got .*tiny\.bin"):
        convert(tmp_path / "tiny.bin", tmp_path / "out")
    (tmp_path / "tiny.gguf").write_text("text")
    with pytest.raises(ValueError, match=r"tiny\.gguf is not GGUF: it begins with b'text'"):
        convert(tmp_path / "tiny.gguf", tmp_path / "out")
    (tmp_path / "tiny.whl").write_text("text")
    with pytest.raises(ValueError, match=r"tiny\.whl is not a zip archive"):
        convert(tmp_path / "tiny.whl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [10, 200, 50_000, -40])
def test_file_that_is_cut_short_is_refused(tmp_path: Path, kept: int):
    file = write(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"tiny\.gguf is damaged or cut short: "):
        convert(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    absent = ("gguf", "torch")
    monkeypatch.setattr(
        convert_gguf.importlib.util, "find_spec", lambda n: None if n in absent else found(n)
    )
    with pytest.raises(ImportError, match=r"not installed: gguf, torch; .*'\.\[gguf\]'"):
        convert(tmp_path / "tiny.gguf", tmp_path / "out")


def test_a_disk_that_refuses_the_weights_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch):
    def refuse(*_, **__) -> None:
        raise SafetensorError("I/O error: No space left on device")

    file = write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", refuse)
    with pytest.raises(OSError, match=r"^cannot write .*out: I/O error: No space left"):
        convert(file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments.inputs.convert_gguf", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_script_says_what_it_wrote(tmp_path: Path):
    file, output = write(tmp_path / "tiny.gguf"), tmp_path / "out"
    process = script(f"--gguf={file}", f"--output={output}")
    parameters = sum(parameter.numel() for parameter in llama().parameters())
    assert process.stdout == f"wrote {output}: llama, {parameters:,} parameters\n"


# What the command of docs/developing.md has written


def test_smollm2_config(smollm2: Path):
    config = json.loads((smollm2 / "config.json").read_text())
    want = {
        "model_type": "llama",
        "head_dim": 64,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "rms_norm_eps": pytest.approx(1e-5),
        "vocab_size": 49152,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    }
    assert {name: config[name] for name in want} == want
    assert "lm_head.weight" not in load_file(smollm2 / "model.safetensors")


def test_smollm2_tokenizer(smollm2: Path):
    assert tokens(smollm2, "  12 x") == ["ĠĠ", "1", "2", "Ġx"]
    assert tokens(smollm2, "Hello world 2024") == "Hello Ġworld Ġ 2 0 2 4".split()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, 49152)
    assert tokenizer.decode(tokenizer(" a  b\n1.5").input_ids) == " a  b\n1.5"


@torch.no_grad()
def test_smollm2_speaks_english(smollm2: Path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model(**inputs).logits[0, -1].argmax()) == " Paris"
