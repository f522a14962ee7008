"""Everyone who is timed extracts the same vectors, and the floor is all of the products."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.extract import SEARCHERS
from experiments.bench.rivals import extractors
from ilo_jax.models.config import AttentionConfig

SENTENCES, LANGUAGES, LAYERS = 5, 6, 3


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "products"])
def test_vectors_are_the_true_ones(name, work, true):
    found = SEARCHERS[name](work)()
    assert found.vectors is not None
    vectors = found.vectors()
    assert vectors.shape == (LAYERS, LANGUAGES * SENTENCES, 24)
    assert vectors.dtype == np.float32
    away = np.linalg.norm(vectors - true, axis=-1) / np.linalg.norm(true, axis=-1)
    assert away.max() < 1e-5
    assert 0 <= found.padding < 1


def test_ours_computes_and_stores_each_time(work):
    search = SEARCHERS["ours"](work)
    one = search()
    assert one.vectors is not None
    before = one.vectors()
    (store,) = (work.scratch / "states").iterdir()
    (store / "complete/zarr.json").unlink()
    other = search()
    assert other.vectors is not None
    np.testing.assert_array_equal(other.vectors(), before)
    for found in (one, other):
        assert found.seconds is not None
        assert found.compile_seconds is not None
        assert found.seconds.wall > 0
        assert found.seconds.cpu > 0
        assert found.compile_seconds > 0
        assert found.padding < 0.9


def test_compiling_takes_none_of_the_time(work, monkeypatch):
    spent = 0.5

    def slow(*args, **kwargs):
        jax.jit(lambda x: x + kwargs["segments"])(1)  # ends a compilation, too
        end = extractors.time.process_time() + spent
        while extractors.time.process_time() < end:
            pass
        return extractors.compiled_forward(*args, **kwargs)

    monkeypatch.setattr("ilo_jax.activations.extraction.compiled_forward", slow)
    found = SEARCHERS["ours"](work)()
    assert found.seconds is not None
    assert found.compile_seconds is not None
    assert found.compile_seconds > spent
    assert found.seconds.wall < spent
    assert found.seconds.cpu < spent


def test_forward_and_floor_are_of_the_batches_of_ours(work):
    found = {name: SEARCHERS[name](work)() for name in ("ours", "ours-forward", "products")}
    assert len({round(each.padding, 6) for each in found.values()}) == 1
    assert len({each.batch for each in found.values()}) == 1
    _, batches = extractors.planned(work)
    assert len(batches) > 1
    assert sum(int((batch.rows.segments > 0).sum()) for _, batch in batches) == work.lengths.sum()


def test_several_blocks_go_where_they_belong(work, true, monkeypatch):
    monkeypatch.setattr("ilo_jax.activations.schedule.BLOCK_BYTES", 1)
    plan, _ = extractors.planned(work)
    assert len(plan.blocks) == LANGUAGES
    found = SEARCHERS["ours-forward"](work)()
    assert found.vectors is not None
    np.testing.assert_allclose(found.vectors(), true, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["ours", pytest.param("ours-forward", marks=pytest.mark.slow)])
def test_rows_may_be_of_several_kinds(name, work, true, monkeypatch):
    monkeypatch.setattr("ilo_jax.activations.planning.kinds", lambda longest: [(30, 64)])
    _, batches = extractors.planned(work)
    assert {kind for kind, _ in batches} == {0, 1}
    found = SEARCHERS[name](work)()
    assert re.fullmatch(r"\d+ x 30 or \d+ x 64 tokens", found.batch)
    assert found.padding == pytest.approx(SEARCHERS["products"](work)().padding)
    assert found.vectors is not None
    np.testing.assert_allclose(found.vectors(), true, rtol=1e-3, atol=1e-4)


ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=3, scale=1.0)
SHAPES = {
    "attn/q/kernel": (8, 12),
    "attn/k/kernel": (8, 6),
    "attn/v/kernel": (8, 6),
    "attn/o/kernel": (12, 8),
    "mlp/gate/kernel": (8, 10),
    "mlp/up/kernel": (8, 10),
    "mlp/down/kernel": (10, 8),
}


def kernels(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_products_of_a_block_are_all_there():
    hidden = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    given = kernels(1)
    q, k, v, o, gate, up, down = (given[name].astype(np.float64) for name in SHAPES)
    expected = []
    for row in hidden.astype(np.float64):
        heads = []
        for head in range(4):
            own, shared = slice(3 * head, 3 * head + 3), slice(3 * (head // 2), 3 * (head // 2) + 3)
            scores = (row @ q[:, own]) @ (row @ k[:, shared]).T
            heads.append(scores @ (row @ v[:, shared]))
        mixed = np.concatenate(heads, axis=-1) @ o
        expected.append((mixed @ gate + mixed @ up) @ down)
    found = extractors.block_products(
        jnp.asarray(hidden),
        given,  # pyright: ignore[reportArgumentType]
        ATTENTION,
        causal=False,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_no_product_of_the_floor_is_left_out():
    rows, seq, blocks = 2, 32, 3
    how = {"attentions": [ATTENTION] * blocks, "causal": False}
    multiply = jax.jit(partial(extractors.all_products, **how))
    weights = [kernels(seed) for seed in range(blocks)]
    compiled = multiply.lower(jnp.ones((rows, seq, 8)), weights).compile()
    matrices = sum(np.prod(shape) for shape in SHAPES.values())
    needed = blocks * 2 * rows * seq * (matrices + 2 * seq * 12)
    cost = compiled.cost_analysis()
    assert cost is not None
    assert needed <= cost["flops"] < 1.1 * needed
    assert np.isfinite(compiled(jnp.ones((rows, seq, 8)), weights))
