import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers import AutoModel

from ilo_jax.models import parameters
from ilo_jax.models.hub import checkpoint, loading, placement
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh
from tests.models.hub.same import ONE, assert_same_weights
from tests.models.reading import states

SCRIPTS = """eng_Latn rus_Cyrl tel_Telu tha_Thai zho_Hans hin_Deva sin_Sinh urd_Arab""".split()
REAL_TOLERANCE = 1e-4
"""Of the norm of a hidden state's pooled vectors, on real weights."""


@pytest.fixture
def rewritten(copied) -> Callable[..., Path]:
    """Return a copy of a variant's folder with some tensors replaced, or left out if None."""

    def rewrite(variant: str, changes: dict[str, np.ndarray | None]) -> Path:
        folder = copied(variant)
        tensors = load_file(folder / "model.safetensors") | changes
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return rewrite


# Every weight is placed


@pytest.mark.parametrize("variant", ["llama-biases", "bert-mlm"])
def test_sharded_files_give_the_same_weights(tiny, ours, tmp_path, variant):
    tiny(variant).torch.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(checkpoint.weight_files(tmp_path)) > 2
    assert_same_weights(loading.load(open_folder(tmp_path), mesh=ONE), ours(variant))


def test_index_decides_which_files_are_read(tiny, ours, tmp_path):
    tiny("llama-gqa").torch.save_pretrained(tmp_path, max_shard_size="20KB")
    save_file({"other": np.zeros(1)}, tmp_path / "adapter.safetensors")
    assert_same_weights(loading.load(open_folder(tmp_path), mesh=ONE), ours("llama-gqa"))


def test_bfloat16_file_is_read_exactly(tiny, ours, tmp_path):
    copy.deepcopy(tiny("llama-biases").torch).bfloat16().save_pretrained(tmp_path)
    wide = parameters.weights(loading.load(open_folder(tmp_path), mesh=ONE))
    narrow = parameters.weights(loading.load(open_folder(tmp_path), mesh=ONE, dtype=jnp.bfloat16))
    for path, weight in parameters.weights(ours("llama-biases")).items():
        half = np.asarray(weight).astype(ml_dtypes.bfloat16)
        assert wide[path].dtype == jnp.float32
        assert np.array_equal(wide[path], half.astype(np.float32))
        assert narrow[path].dtype == jnp.bfloat16
        assert np.array_equal(np.asarray(narrow[path]).view(np.int16), half.view(np.int16))


@pytest.mark.parametrize(
    ("variant", "extra", "expected"),
    [
        (
            "llama-gqa",
            ["model.layers.0.self_attn.rotary_emb.inv_freq"],
            ["model.layers.0.self_attn.rotary_emb.inv_freq"],
        ),
        ("llama-bare", ["lm_head.weight"], ["lm_head.weight"]),
        (
            "bert-model",
            ["embeddings.position_ids", "classifier.weight"],
            [
                "classifier.weight",
                "embeddings.position_ids",
                "pooler.dense.bias",
                "pooler.dense.weight",
            ],
        ),
        (
            "bert-mlm",
            ["bert.embeddings.position_ids", "bert.pooler.dense.bias", "qa_outputs.bias"],
            ["bert.embeddings.position_ids", "bert.pooler.dense.bias", "qa_outputs.bias"],
        ),
    ],
)
def test_tensors_that_are_not_ours_are_named_in_the_log(
    rewritten, ours, caplog, variant, extra, expected
):
    folder = rewritten(variant, {name: np.ones(3, np.float32) for name in extra})
    with caplog.at_level("INFO", logger="ilo_jax.models.hub.loading"):
        model = loading.load(open_folder(folder), mesh=ONE)
    assert caplog.messages == [f"not used: {', '.join(expected)}"]
    assert_same_weights(model, ours(variant))


def test_nothing_is_logged_where_everything_is_placed(tiny, caplog):
    with caplog.at_level("INFO", logger="ilo_jax.models.hub.loading"):
        loading.load(open_folder(tiny("llama-gqa").folder), mesh=ONE)
    assert not caplog.messages


@pytest.mark.parametrize("data", [1, 2])
def test_model_stays_as_it_is_when_its_file_changes(copied, ours, data):
    folder = copied("llama-gqa")
    file = folder / "model.safetensors"
    content = file.read_bytes()
    # Tensors where a device could take them as they are: each at a multiple of 64 bytes.
    start = 8 + int.from_bytes(content[:8], "little")
    header = content[8:start].ljust(-(-start // 64) * 64 - 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[start:])
    model = loading.load(open_folder(folder), mesh=make_mesh(data=data))
    with file.open("r+b") as stream:
        stream.seek(-60_000, os.SEEK_END)
        stream.write(bytes(60_000))
    assert_same_weights(model, ours("llama-gqa"))


# Over devices: more of it in test_meshes.py


@pytest.mark.parametrize(("data", "model", "fsdp"), [(2, 1, False), (1, 2, False), (2, 2, True)])
def test_each_distinct_shard_is_read_once(tiny, monkeypatch, data, model, fsdp):
    reads = []

    class Recorded(checkpoint.Mapped):
        def tensor(self, name):
            class Tensor(np.ndarray):
                def __getitem__(self, index):
                    reads.append((name, str(index)))
                    return np.asarray(self)[index]

            return super().tensor(name).view(Tensor)

    monkeypatch.setattr(loading, "Mapped", Recorded)
    mesh = make_mesh(data=data, model=model)
    weights = parameters.weights(
        loading.load(open_folder(tiny("llama-gqa").folder), mesh=mesh, fsdp=fsdp)
    )
    distinct = {(p, str(s.index)) for p, w in weights.items() for s in w.addressable_shards}
    assert len(reads) == len(set(reads)) == len(distinct)


# What is refused


def test_missing_and_unexpected_weights_are_named_together(rewritten):
    changes = {
        "model.norm.weight": None,
        "model.layers.1.mlp.up_proj.weight": None,
        "model.layers.2.mlp.up_proj.weight": np.zeros((48, 32), np.float32),
    }
    folder = rewritten("llama-gqa", changes)
    message = (
        f"the weights in {folder} do not fit its config.json: "
        "missing ['model.layers.1.mlp.up_proj.weight', 'model.norm.weight'], "
        "unexpected ['model.layers.2.mlp.up_proj.weight']"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loading.load(open_folder(folder), mesh=ONE)


def test_missing_weight_is_refused(rewritten):
    message = r"missing \['bert.embeddings.LayerNorm.bias'\], unexpected none$"
    with pytest.raises(ValueError, match=message):
        loading.load(
            open_folder(rewritten("bert-mlm", {"bert.embeddings.LayerNorm.bias": None})), mesh=ONE
        )


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("llama-gqa", "model.layers.0.self_attn.q_proj.bias"),
        ("llama-gqa", "model.layers.0.self_attn.q_norm.weight"),
        ("llama-gqa", "lm_head.bias"),
        ("bert-model", "encoder.layer.0.attention.self.distance_embedding.weight"),
        ("bert-mlm", "embeddings.LayerNorm.gamma"),
    ],
)
def test_unexpected_weight_is_refused(rewritten, variant, name):
    message = rf"missing none, unexpected \['{name}'\]$"
    with pytest.raises(ValueError, match=message):
        loading.load(open_folder(rewritten(variant, {name: np.zeros(32, np.float32)})), mesh=ONE)


def test_head_that_config_promises_is_not_replaced_by_the_embedding(rewritten):
    with pytest.raises(ValueError, match=r"missing \['lm_head.weight'\], unexpected none$"):
        loading.load(open_folder(rewritten("llama-gqa", {"lm_head.weight": None})), mesh=ONE)


@pytest.mark.parametrize(
    ("name", "expected", "got"),
    [
        ("model.layers.1.self_attn.k_proj.weight", (16, 32), (32, 16)),
        ("model.embed_tokens.weight", (64, 32), (65, 32)),
        ("model.norm.weight", (32,), (32, 1)),
    ],
)
def test_misshapen_weight_is_refused(rewritten, name, expected, got):
    folder = rewritten("llama-gqa", {name: np.zeros(got, np.float32)})
    message = f"{name} in {folder / 'model.safetensors'} must have shape {expected}, got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loading.load(open_folder(folder), mesh=ONE)


def test_all_misfits_are_named_before_anything_is_placed(rewritten):
    changes = {
        "model.embed_tokens.weight": np.zeros((65, 32), np.float32),
        "model.norm.weight": np.zeros(32, np.int8),
    }
    folder = rewritten("llama-gqa", changes)
    file = folder / "model.safetensors"
    message = (
        f"model.embed_tokens.weight in {file} must have shape (64, 32), got (65, 32); "
        f"model.norm.weight in {file} must be one of F64, F32, F16, BF16, got I8"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loading.load(open_folder(folder), mesh=ONE)


def test_only_the_first_of_many_unexpected_weights_are_named(rewritten):
    changes = {f"odd.{i:02}": np.zeros(1, np.float32) for i in range(12)}
    message = r"missing none, unexpected \['odd.00', 'odd.01', .*'odd.09', and 2 more\]$"
    with pytest.raises(ValueError, match=message):
        loading.load(open_folder(rewritten("llama-gqa", changes)), mesh=ONE)


def test_wrapped_weights_are_one_line(tiny, rewritten):
    tensors = load_file(tiny("llama-gqa").folder / "model.safetensors")
    changes = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
    folder = rewritten("llama-gqa", dict.fromkeys(tensors) | changes)
    message = (
        f"the weights in {folder} do not fit its config.json: their names have _orig_mod. in them, "
        "from torch.compile: save model._orig_mod"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        loading.load(open_folder(folder), mesh=ONE)


def test_single_file_outranks_a_stale_index_as_in_transformers(tiny, ours, rewritten):
    """Whose shards are whole, and of other weights."""
    folder = rewritten("llama-gqa", {})
    tiny("llama-tied").torch.save_pretrained(folder / "stale", max_shard_size="20KB")
    for file in (folder / "stale").glob("model*"):
        file.rename(folder / file.name)
    assert (folder / checkpoint.INDEX).is_file()
    model, theirs = loading.load(open_folder(folder), mesh=ONE), AutoModel.from_pretrained(folder)
    assert_same_weights(model, ours("llama-gqa"))
    read = theirs.state_dict()["norm.weight"].numpy()
    assert np.array_equal(read, parameters.weights(model)["norm/scale"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tiny, rewritten, value):
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    tensors = load_file(tiny("llama-gqa").folder / "model.safetensors")
    for name in names:
        tensors[name].flat[7] = value
    folder = rewritten("llama-gqa", {name: tensors[name] for name in names})
    message = f"NaN or infinite weights in {folder}: {', '.join(names)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loading.load(open_folder(folder), mesh=ONE)


def test_damaged_file_is_refused(copied):
    """With the words of `checkpoint`, whose tests have the other ways to be refused."""
    file = copied("llama-gqa") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    message = f"^{re.escape(str(file))} is truncated or not safetensors: "
    with pytest.raises(ValueError, match=message):
        loading.load(open_folder(file.parent), mesh=ONE)


@pytest.mark.parametrize("variant", ["llama-tied", "bert-mlm"])
def test_head_that_is_the_embedding_may_be_in_the_file(tiny, rewritten, variant):
    names = {
        "llama-tied": ("lm_head.weight", "model.embed_tokens.weight"),
        "bert-mlm": ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    }
    own, table = names[variant]
    same = load_file(tiny(variant).folder / "model.safetensors")[table]
    loading.load(open_folder(rewritten(variant, {own: same})), mesh=ONE)


@pytest.mark.parametrize("rows", [placement.ROWS, 10])
def test_another_head_than_the_tied_one_is_refused(rewritten, tiny, monkeypatch, rows):
    """Which differs in the last of its 64 rows, compared at once or ten at a time."""
    monkeypatch.setattr(placement, "ROWS", rows)
    other = load_file(tiny("llama-tied").folder / "model.safetensors")["model.embed_tokens.weight"]
    other[-1, -1] += 1
    folder = rewritten("llama-tied", {"lm_head.weight": other})
    message = (
        f"the weights in {folder} do not fit its config.json: tie_word_embeddings is true, but "
        "lm_head.weight differs from model.embed_tokens.weight: say false to use it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loading.load(open_folder(folder), mesh=ONE)


def test_too_little_device_memory_names_what_to_change(tiny, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(loading, "_place", full)
    folder = tiny("llama-gqa").folder
    message = (
        f"too little device memory for the weights in {folder}; try bfloat16 weights "
        "(param_dtype or dtype=bfloat16), or more devices to split them over "
        "(model_parallel, fsdp): RESOURCE_EXHAUSTED: out of memory"
    )
    with pytest.raises(MemoryError, match=f"^{re.escape(message)}$"):
        loading.load(open_folder(folder), mesh=ONE)


@pytest.mark.parametrize("dtype", ["float64", "int32", "float8_e4m3fn"])
def test_dtype_that_no_model_is_held_in_is_refused(tiny, dtype):
    message = f"dtype must be one of float32, bfloat16, float16, got {dtype}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loading.load(open_folder(tiny("llama-gqa").folder), mesh=ONE, dtype=dtype)


# Real weights


def first_fit(lengths: list[int]) -> list[list[int]]:
    """Sentences per row, rows as long as the longest sentence."""
    rows: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = [row for row in rows if sum(lengths[j] for j in row) + lengths[i] <= max(lengths)]
        fits[0].append(i) if fits else rows.append([i])
    return rows


@nnx.jit
def means(model, tokens, positions, segments, members):
    """Mean of each hidden state over each segment: per layer "batch segment dim"."""
    of = (segments[:, None] == members[None, :, None]).astype(jnp.float32)
    share = of / jnp.maximum(of.sum(-1, keepdims=True), 1)
    return states(
        model,
        tokens,
        positions,
        segments,
        show=lambda h: jnp.einsum("bns,bsd->bnd", share, h, precision="highest"),
    )


def pooled_by_us(model, sentences: list[list[int]]) -> np.ndarray:
    """Return "layer sent dim", from packed rows."""
    rows = first_fit([len(sentence) for sentence in sentences])
    shape = len(rows), max(map(len, sentences))
    tokens, positions, segments = np.zeros((3, *shape), np.int32)
    for row, members in enumerate(rows):
        start = 0
        for segment, i in enumerate(members, 1):
            where = slice(start, start + len(sentences[i]))
            tokens[row, where] = sentences[i]
            positions[row, where] = np.arange(len(sentences[i]))
            segments[row, where] = segment
            start = where.stop
    arrays = tokens, positions, segments, np.arange(1, max(map(len, rows)) + 1, dtype=np.int32)
    states = np.stack(jax.device_get(means(model, *map(jnp.asarray, arrays))))
    pooled = np.empty((len(states), len(sentences), states.shape[-1]), np.float32)
    for row, members in enumerate(rows):
        pooled[:, members] = states[:, row, : len(members)]
    return pooled


def pooled_by_torch(model: Any, sentences: list[list[int]]) -> np.ndarray:
    """Return "layer sent dim", one sentence at a time."""
    pooled = []
    with torch.no_grad():
        for sentence in sentences:
            states = model(torch.tensor([sentence]), output_hidden_states=True).hidden_states
            pooled.append(torch.stack(states)[:, 0].mean(dim=1).numpy())
    return np.stack(pooled, axis=1)


# As check_model does with them; these are more sentences, in scripts that are not Latin.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["e5", "smollm2"])
def test_real_model_on_eight_scripts(flores, request, name):
    folder = request.getfixturevalue(name)
    texts = []
    for code in SCRIPTS:  # mostly short ones: the English tokenizer makes bytes of most scripts
        first, *lines = (flores / f"devtest/{code}.devtest").read_text().splitlines()[:100]
        texts += [first, *sorted(lines, key=len)[:4]]
    sentences = open_folder(folder).tokenizer(texts)["input_ids"]
    theirs = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    expected = pooled_by_torch(theirs.eval(), sentences)
    got = pooled_by_us(loading.load(open_folder(folder), mesh=ONE), sentences)
    assert got.shape == expected.shape
    for state, wanted in zip(got, expected, strict=True):
        assert np.linalg.norm(state - wanted) <= REAL_TOLERANCE * np.linalg.norm(wanted)
