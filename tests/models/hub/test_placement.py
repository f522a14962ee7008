import dataclasses
import itertools
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import FAMILIES, Family, family_of, read_config
from ilo_jax.models.hub.placement import (
    Source,
    account,
    by_tensor,
    is_bare,
    join,
    sources,
    without_prefix,
)

RELEASED = json.loads((Path(__file__).parents[1] / "released.json").read_text())
EXAMPLES = sorted({raw["model_type"]: name for name, raw in RELEASED.items()}.values())
EXAMPLES += ["facebook/opt-350m", "intfloat/multilingual-e5-large"]


def place(*, axis: int, transposed: bool, groups: int, start: int, size: int, total: int) -> Source:
    return Source("t", axis, transposed, groups, start, size, total)


# The source of our weight, and our shape.
LAYOUTS = {
    "plain": (place(axis=0, transposed=False, groups=1, start=0, size=5, total=5), (5, 3)),
    "transposed": (place(axis=1, transposed=True, groups=1, start=0, size=4, total=4), (3, 4)),
    "inputs first": (place(axis=1, transposed=False, groups=1, start=0, size=4, total=4), (3, 4)),
    "rows": (place(axis=1, transposed=True, groups=1, start=4, size=2, total=8), (3, 2)),
    "rows, last": (place(axis=1, transposed=True, groups=1, start=6, size=2, total=8), (3, 2)),
    "rows, inputs first": (
        place(axis=1, transposed=False, groups=1, start=4, size=4, total=12),
        (3, 4),
    ),
    "heads": (place(axis=1, transposed=True, groups=3, start=2, size=2, total=6), (4, 6)),
    "heads, first": (place(axis=1, transposed=True, groups=3, start=0, size=2, total=6), (4, 6)),
    "bias": (place(axis=0, transposed=False, groups=1, start=0, size=5, total=5), (5,)),
    "bias, rows": (place(axis=0, transposed=False, groups=1, start=3, size=2, total=7), (2,)),
    "bias, heads": (place(axis=0, transposed=False, groups=3, start=4, size=2, total=6), (6,)),
}


def rows(source: Source) -> list[int]:
    """Return which rows of the tensor, in order, are ours."""
    return [
        group * source.total + source.start + i
        for group in range(source.groups)
        for i in range(source.size)
    ]


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def part_of(source: Source, tensor: np.ndarray) -> np.ndarray:
    """Return our whole weight."""
    return np.take(tensor.T if source.transposed else tensor, rows(source), axis=source.axis)


def slices(size: int) -> list[slice]:
    return [slice(i, j) for i, j in itertools.combinations(range(size + 1), 2)]


@pytest.mark.parametrize(("source", "ours"), LAYOUTS.values(), ids=LAYOUTS)
def test_shape_is_that_of_the_whole_tensor(source, ours):
    shape = source.shape(ours)
    assert part_of(source, numbered(shape)).shape == ours
    assert source.groups * source.total in shape


@pytest.mark.parametrize(("source", "ours"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_block_is_read(source, ours):
    tensor = numbered(source.shape(ours))
    expected = part_of(source, tensor)
    for index in itertools.product(*map(slices, ours)):
        assert np.array_equal(source.read(tensor, index), expected[index])


@pytest.mark.parametrize(("source", "ours"), LAYOUTS.values(), ids=LAYOUTS)
def test_pieces_are_no_more_than_the_block_needs(source, ours):
    tensor = numbered(source.shape(ours))
    for index in itertools.product(*map(slices, ours)):
        pieces = [tensor[piece] for piece in source.pieces(index)]
        size = int(np.prod([part.stop - part.start for part in index]))
        assert sum(piece.size for piece in pieces) == size
        assert all(piece.size for piece in pieces)


@pytest.mark.parametrize(("source", "ours"), LAYOUTS.values(), ids=LAYOUTS)
def test_what_is_read_is_written_to_its_place(source, ours):
    tensor = numbered(source.shape(ours))
    whole = tuple(slice(0, size) for size in ours)
    copy = np.full_like(tensor, -1)
    source.write(copy, source.read(tensor, whole))
    mine = np.isin(tensor, part_of(source, tensor))
    assert np.array_equal(copy, np.where(mine, tensor, -1))


def model_of(name: str) -> tuple[Family, ModelConfig, dict[str, tuple[int, ...]]]:
    """Return family, configuration and shapes of a released model of two blocks."""
    config = read_config(RELEASED[name])
    config = dataclasses.replace(config, blocks=config.blocks[:2])
    model = parameters.abstract(config, dtype=jnp.float32)
    shapes = {path: weight.shape for path, weight in parameters.shapes(model).items()}
    return family_of(RELEASED[name]), config, shapes


@pytest.mark.parametrize("name", EXAMPLES)
def test_weights_are_every_row_of_every_tensor_once(name):
    family, config, shapes = model_of(name)
    found = sources(family, config, shapes)
    assert set(found) == set(shapes)
    for parts in by_tensor(found).values():
        (shape,) = {source.shape(shapes[path]) for path, source in parts.items()}
        (axis,) = {len(shape) - 1 - s.axis if s.transposed else s.axis for s in parts.values()}
        times = np.zeros(shape[axis], int)
        for path, source in parts.items():
            whole = tuple(slice(0, size) for size in shapes[path])
            for piece in source.pieces(whole):
                times[piece[axis]] += 1
                others = [p for i, p in enumerate(piece) if i != axis]
                sizes = [n for i, n in enumerate(shape) if i != axis]
                assert others == [slice(0, n) for n in sizes]
        assert (times == 1).all()


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        (
            "meta-llama/Llama-3.1-8B",
            "layers/1/attn/k/kernel",
            Source("model.layers.1.self_attn.k_proj.weight", 1, True, 1, 0, 1024, 1024),
        ),
        (
            "meta-llama/Llama-3.1-8B",
            "embed/tokens/embedding",
            Source("model.embed_tokens.weight", 0, False, 1, 0, 128256, 128256),
        ),
        (
            "openai-community/gpt2",
            "layers/0/attn/v/kernel",
            Source("transformer.h.0.attn.c_attn.weight", 1, False, 1, 1536, 768, 2304),
        ),
        (
            "openai-community/gpt2",
            "layers/0/attn/k/bias",
            Source("transformer.h.0.attn.c_attn.bias", 0, False, 1, 768, 768, 2304),
        ),
        (
            "microsoft/phi-4",
            "layers/0/attn/v/kernel",
            Source("model.layers.0.self_attn.qkv_proj.weight", 1, True, 1, 6400, 1280, 7680),
        ),
        (
            "microsoft/phi-4",
            "layers/0/mlp/up/kernel",
            Source("model.layers.0.mlp.gate_up_proj.weight", 1, True, 1, 17920, 17920, 35840),
        ),
        (
            "bigscience/bloom-560m",
            "layers/0/attn/k/kernel",
            Source(
                "transformer.h.0.self_attention.query_key_value.weight", 1, True, 16, 64, 64, 192
            ),
        ),
        (
            "bigscience/bloom-560m",
            "layers/1/attn/v/bias",
            Source(
                "transformer.h.1.self_attention.query_key_value.bias", 0, False, 16, 128, 64, 192
            ),
        ),
        (
            "google-bert/bert-base-uncased",
            "head/bias",
            Source("cls.predictions.bias", 0, False, 1, 0, 30522, 30522),
        ),
    ],
)
def test_place_of_a_weight(name, path, expected):
    assert sources(*model_of(name))[path] == expected


def test_tensor_is_joined_from_its_parts():
    """Head by head: the query rows of the first head, its key rows, its value rows."""
    weights = {name: numbered((2, 4)) + 10 * i for i, name in enumerate("qkv")}
    parts = {
        name: place(axis=1, transposed=True, groups=2, start=2 * i, size=2, total=6)
        for i, name in enumerate("qkv")
    }
    expected = np.concatenate([
        weights[name].T[2 * head : 2 * head + 2] for head in (0, 1) for name in "qkv"
    ])
    assert np.array_equal(join(weights, parts), expected)


# What a checkpoint holds


def found_of(name: str) -> tuple[Family, dict[str, Source]]:
    family, config, shapes = model_of(name)
    return family, sources(family, config, shapes)


def files(*names: str) -> dict[str, Path]:
    return dict.fromkeys(names, Path("model.safetensors"))


LLAMA = FAMILIES["llama"]
FOUND = {
    "embed/tokens/embedding": Source("model.embed_tokens.weight", 0, False, 1, 0, 4, 4),
    "norm/scale": Source("model.norm.weight", 0, False, 1, 0, 4, 4),
}
HERE = ("model.embed_tokens.weight", "model.norm.weight")


def test_all_weights_are_accounted_for():
    assert account(FOUND, LLAMA, files(*HERE), head="own") == (FOUND, [])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (HERE[:1], "missing ['model.norm.weight'], unexpected none"),
        ((*HERE, "b", "a"), "missing none, unexpected ['a', 'b']"),
        (
            ("model.odd", "model.more"),
            "missing ['model.embed_tokens.weight', 'model.norm.weight'], "
            "unexpected ['model.more', 'model.odd']",
        ),
        ((), "missing ['embed_tokens.weight', 'norm.weight'], unexpected none"),
    ],
)
def test_missing_and_unexpected_tensors_are_named_together(tensors, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        account(FOUND, LLAMA, files(*tensors), head="own")


def test_what_is_derived_or_of_another_task_is_ignored_and_named():
    extra = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in (0, 1)] + ["score.weight"]
    _, ignored = account(FOUND, LLAMA, files(*HERE, *extra), head="own")
    assert ignored == extra


@pytest.mark.parametrize("head", ["tied", "none"])
def test_head_that_is_not_ours_is_ignored(head):
    _, ignored = account(FOUND, LLAMA, files(*HERE, "lm_head.weight"), head=head)
    assert ignored == ["lm_head.weight"]


def test_own_head_is_never_ignored():
    with pytest.raises(ValueError, match=r"^missing none, unexpected \['lm_head.weight'\]$"):
        account(FOUND, LLAMA, files(*HERE, "lm_head.weight"), head="own")


def test_bare_backbone_leaves_out_the_prefix():
    named, ignored = account(FOUND, LLAMA, files("embed_tokens.weight", "norm.weight"), head="none")
    assert [source.tensor for source in named.values()] == ["embed_tokens.weight", "norm.weight"]
    assert ignored == []
    assert named == without_prefix(FOUND, LLAMA)


@pytest.mark.parametrize(
    ("names", "bare"), [(["norm.weight"], True), (["norm.weight", "model.odd"], False), ([], True)]
)
def test_one_prefix_is_enough(names, bare):
    assert is_bare(names, LLAMA) == bare


@pytest.mark.parametrize("bare", [False, True])
def test_bert_of_older_days(bare):
    """Its norms have gamma and beta; poolers and the other task's head are not ours."""
    family, found = found_of("google-bert/bert-base-uncased")
    names = [
        s.tensor.replace("LayerNorm.weight", "LayerNorm.gamma").replace(".bias", ".beta")
        if "LayerNorm" in s.tensor
        else s.tensor
        for s in found.values()
    ]
    names = [name.removeprefix("bert.") if bare else name for name in names]
    prefix = "" if bare else "bert."
    extra = ["cls.seq_relationship.weight", f"{prefix}pooler.dense.bias"]
    named, ignored = account(found, family, files(*names, *extra), head="tied")
    assert [source.tensor for source in named.values()] == names
    assert ignored == sorted(extra)


def test_unused_parts_of_a_masked_head_are_ignored():
    family, found = found_of("intfloat/multilingual-e5-small")
    extra = [
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.transform.dense.weight",
    ]
    names = [source.tensor for source in found.values()]
    assert account(found, family, files(*names, *extra), head="none")[1] == extra
