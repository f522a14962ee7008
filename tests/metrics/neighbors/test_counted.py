"""What bins propose and a count proves, against staged selection, on bins that miss what they can.

Only TPUs take maxima of bins; here the bins are numpy's in their place.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from ilo_jax.metrics import Neighbors, nearest
from ilo_jax.metrics.neighbors import search
from ilo_jax.metrics.neighbors.counted import best_keys_counted
from ilo_jax.metrics.neighbors.selection import Candidates, best_keys, scores
from ilo_jax.metrics.neighbors.sizes import Sizes, sizes_for
from ilo_jax.sharding import make_mesh

QUERIES, KEYS, DIM, COUNT = 30, 240, 8, 7
MESH = make_mesh(data=8)


def whole_numbers(*shape: int, seed: int = 0, most: int = 9) -> np.ndarray:
    """Their products are exact, and many equal, in whatever order they are added up."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


def maxima_of_bins(score: jax.Array, count: int, *, bins: int) -> tuple[jax.Array, jax.Array]:
    """The best of each bin's best; key j is in bin j % bins, as on TPUs."""
    queries, keys = score.shape
    rows = math.ceil(keys / bins)
    padded = jnp.pad(score, ((0, 0), (0, rows * bins - keys)), constant_values=-jnp.inf)
    binned = padded.reshape(queries, rows, bins)
    index = jnp.argmax(binned, axis=1) * bins + jnp.arange(bins)[None]
    best, place = lax.top_k(jnp.max(binned, axis=1), count)
    index = jnp.take_along_axis(index, place, axis=1)
    # A TPU names no key of a bin in which all are excluded.
    return best, jnp.where(best > -jnp.inf, index, -1).astype(jnp.int32)


@pytest.fixture
def bins_of_tpus(monkeypatch) -> Callable[[int], None]:
    """Return what sets the number of bins."""

    def put(bins: int) -> None:
        def approx_max_k(score: jax.Array, count: int, *, recall_target: float):
            assert recall_target == 0.98
            return maxima_of_bins(score, count, bins=max(bins, count))

        monkeypatch.setattr(lax, "approx_max_k", approx_max_k)

    return put


CASES = {
    "random": whole_numbers(KEYS, DIM),
    "few values": whole_numbers(KEYS, DIM, most=1),
    "copies": np.repeat(whole_numbers(KEYS // 12, DIM), 12, axis=0),
    "copies in one bin": np.tile(whole_numbers(KEYS // 12, DIM), (12, 1)),
    "all equal": np.ones((KEYS, DIM), np.float32),
    # Of every query the best are 0, 20, 40, ..., which share a bin wherever there are 20 or 10.
    "the best in one bin": np.where(np.arange(KEYS)[:, None] % 20 == 0, 50, 1)
    + np.arange(KEYS, dtype=np.float32)[:, None],
}
BIASES = {
    "none": np.zeros(KEYS, np.float32),
    "of the norm": -np.sum(CASES["random"] ** 2, axis=1) / 2,
    "excluding a third": np.where(np.arange(KEYS) % 3 == 0, -np.inf, 1).astype(np.float32),
    "excluding all but 5": np.where(np.arange(KEYS) % 50 == 7, 0, -np.inf).astype(np.float32),
    "excluding all": np.full(KEYS, -np.inf, np.float32),
}


@cache
def compiled_once(bins: int, count: int) -> Callable[..., Candidates]:
    """The selection; it is traced while there are so many bins."""
    return jax.jit(lambda *arrays: best_keys_counted(*arrays, count=count))


def selected(
    queries: np.ndarray,
    keys: np.ndarray,
    bias: np.ndarray,
    own: np.ndarray,
    *,
    bins: int,
    count: int = COUNT,
) -> tuple[Candidates, np.ndarray]:
    """The candidates, and all scores in numpy."""
    given = (jnp.asarray(x) for x in (queries, keys, bias, own.astype(np.int32)))
    found = compiled_once(bins, count)(*given)
    total = queries @ keys.T + bias
    total[own[:, None] == np.arange(len(keys))] = -np.inf
    return found, total


def check(found: Candidates, total: np.ndarray) -> None:
    """The scores are the highest, and the candidates different keys that have them."""
    count = found.score.shape[1]
    np.testing.assert_array_equal(found.score, -np.sort(-total, axis=1)[:, :count])
    np.testing.assert_array_equal(found.squared, np.inf)
    index, keys = np.asarray(found.index), total.shape[1]
    assert ((index >= 0) & (index < keys)).all()
    there = np.asarray(found.score) > -np.inf
    np.testing.assert_array_equal(
        np.take_along_axis(total, index, axis=1)[there], found.score[there]
    )
    assert all(len({*row[of].tolist()}) == of.sum() for row, of in zip(index, there, strict=True))


@pytest.mark.parametrize("bins", [COUNT, 10, 20, 128])
@pytest.mark.parametrize("case", CASES)
def test_the_best_of_all_scores_are_found(case, bins, bins_of_tpus):
    keys = CASES[case]
    bins_of_tpus(bins)
    for bias in BIASES.values():
        check(*selected(keys[:QUERIES], keys, bias, np.arange(QUERIES), bins=bins))


@pytest.mark.parametrize(("keys", "count"), [(3, 7), (7, 7), (8, 7), (1, 1), (240, 33)])
def test_fewer_keys_than_candidates_and_as_many(keys, count, bins_of_tpus):
    bins_of_tpus(1)
    points = CASES["random"][:keys]
    for own in (np.arange(keys), np.arange(keys) - 3):
        check(*selected(points, points, BIASES["none"][:keys], own, bins=1, count=count))


@pytest.mark.parametrize("bins", [COUNT, 64])
def test_what_the_bins_miss_is_redone_and_only_that(bins, bins_of_tpus, monkeypatch):
    """In rounds of an eighth of the queries."""
    redone = []
    top_k = lax.top_k

    def counted(score: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        if score.shape == (8, KEYS):
            jax.debug.callback(lambda _: redone.append(8), score[0, 0])
        return top_k(score, count)

    queries, keys = whole_numbers(64, DIM, seed=1), CASES["random"]
    bias, nobody = BIASES["of the norm"], np.full(64, -1)
    proposed = maxima_of_bins(jnp.asarray(queries @ keys.T + bias), COUNT, bins=bins)[0]
    monkeypatch.setattr(lax, "top_k", counted)
    bins_of_tpus(bins)
    compiled_once.cache_clear()
    found, total = selected(queries, keys, bias, nobody, bins=bins)
    compiled_once.cache_clear()
    jax.effects_barrier()
    check(found, total)
    missed = (np.asarray(proposed) != found.score).any(axis=1)
    # A score that ties with the last one is as good as it.
    assert 0 < missed.sum() < 64 or bins == COUNT
    assert sum(redone) == math.ceil(missed.sum() / 8) * 8


def test_products_of_bfloat16_are_selected_from_like_staged(bins_of_tpus):
    """The products are exact in bfloat16, too."""
    bins_of_tpus(COUNT)
    points = jnp.asarray(CASES["random"]).astype(jnp.bfloat16)
    bias, own = jnp.asarray(BIASES["of the norm"]), jnp.arange(KEYS, dtype=jnp.int32)
    found = jax.jit(partial(best_keys_counted, count=COUNT))(points, points, bias, own)
    staged = best_keys(scores(points, points), bias, own, count=COUNT, tile=8)
    np.testing.assert_array_equal(found.score, staged.score)


@pytest.fixture
def as_on_tpus(monkeypatch, bins_of_tpus) -> Callable[[], None]:
    """Return what makes a search select as on TPUs, by 16 bins, on these CPUs."""

    def sizes_of_tpus(*args: Any, **settings: Any) -> Sizes:
        cut = sizes_for(*args, **settings)
        return cut._replace(counted=True, together=False, pairs=0, tile=1)

    def put() -> None:
        bins_of_tpus(16)
        monkeypatch.setattr(search, "sizes_for", sizes_of_tpus)

    return put


def anisotropic(points: int, dim: int) -> np.ndarray:
    """With copies and points that must be left out."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((points, dim)) * np.exp(-np.arange(dim) / 8) + 3
    rows[10:12] = rows[20:22]
    rows[[0, 7, points - 1]] = np.nan
    return rows.astype(np.float32)


VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "fast": {"precision": "fast"},
    "8 devices": {"mesh": MESH},
    "8 devices, fast": {"mesh": MESH, "precision": "fast"},
}
slow = [pytest.param(name, marks=pytest.mark.slow) for name in ("fast", "8 devices")]


def same(found: Neighbors, expected: Neighbors) -> None:
    """The same neighbours where both are certain, and both are mostly certain."""
    certain = ~np.asarray(found.uncertain | expected.uncertain)
    assert certain.mean() > 0.9
    np.testing.assert_array_equal(
        np.sort(found.index[certain], axis=1), np.sort(expected.index[certain], axis=1)
    )
    np.testing.assert_array_equal(found.unusable, expected.unusable)


@pytest.mark.parametrize("variant", ["exact", "8 devices, fast", *slow])
def test_a_search_gives_the_same_neighbours(variant, as_on_tpus):
    points = jnp.asarray(anisotropic(397, 24))
    given: dict[str, Any] = {"k": 5, **VARIANTS[variant]}
    expected = nearest(points, **given)
    as_on_tpus()
    same(nearest(points, **given), expected)


@pytest.mark.slow
def test_under_the_transforms_of_jax(as_on_tpus):
    states = jnp.asarray(np.stack([anisotropic(60, 24), anisotropic(60, 24)[::-1]]))
    expected = [nearest(one, k=5) for one in states]
    as_on_tpus()
    search_one = partial(nearest, k=5, block=16)
    split = PartitionSpec("data")
    mapped = jax.shard_map(
        lambda own: jax.tree.map(lambda x: x[None], search_one(own[0])),
        mesh=make_mesh(data=2),
        in_specs=split,
        out_specs=split,
    )
    for found in (jax.vmap(search_one)(states), jax.jit(mapped)(states)):
        for layer, one in enumerate(expected):
            same(jax.tree.map(lambda x, layer=layer: x[layer], found), one)
