"""Two-stage selection against a plain sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.metrics.neighbors import selection
from ilo_jax.metrics.neighbors.selection import (
    Candidates,
    best_keys,
    best_queries,
    measured,
    merged,
    no_candidates,
    scores,
    take,
)

best_keys = jax.jit(best_keys, static_argnames=("count", "tile"))
best_queries = jax.jit(best_queries, static_argnames=("skip", "count", "tile"))
merged = jax.jit(merged)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def biases(count: int) -> np.ndarray:
    """Some of which exclude."""
    excluded = np.random.default_rng(1).random(count) < 0.3
    return np.where(excluded, -np.inf, normal(count, seed=2)).astype(np.float32)


def check(found: Candidates, total: np.ndarray, count: int) -> None:
    """The highest of each row of scores that are all different, by falling score."""
    order = np.argsort(-total, axis=1)[:, : min(count, total.shape[1])]
    best = np.take_along_axis(total, order, axis=1)
    np.testing.assert_array_equal(found.score, best)
    np.testing.assert_array_equal(found.squared, np.inf)
    there = best > -np.inf
    np.testing.assert_array_equal(np.asarray(found.index)[there], order[there])


SIZES = [(24, 5, 4), (24, 5, 1), (24, 3, 24), (24, 40, 4), (24, 24, 2), (24, 1, 3), (25, 7, 5)]


@pytest.mark.parametrize(("keys", "count", "tile"), SIZES)
def test_best_keys(keys, count, tile):
    score, bias = normal(30, keys), biases(keys)
    own = np.arange(-3, 27)
    found = best_keys(
        jnp.asarray(score), jnp.asarray(bias), jnp.asarray(own), count=count, tile=tile
    )
    total = score + bias
    total[own[:, None] == np.arange(keys)] = -np.inf
    check(found, total, count)


@pytest.mark.parametrize(("queries", "count", "tile"), SIZES)
@pytest.mark.parametrize("skip", [0, 6])
def test_best_queries(queries, count, tile, skip):
    score, bias = normal(queries, 30), biases(queries)
    found = best_queries(jnp.asarray(score), jnp.asarray(bias), skip=skip, count=count, tile=tile)
    check(found, (score + bias[:, None]).T[skip:], count)


@pytest.mark.parametrize("tile", [1, 4, 24])
def test_a_key_is_not_its_own_however_high_its_score(tile):
    """Nor does it push out another: each is the maximum of its tile, with others close behind."""
    score = normal(24, 24) * 1e-3 + 100 * np.eye(24, dtype=np.float32)
    found = best_keys(jnp.asarray(score), jnp.zeros(24), jnp.arange(24), count=4, tile=tile)
    check(found, np.where(np.eye(24) > 0, -np.inf, score), 4)


@pytest.mark.parametrize("tile", [1, 4, 24])
def test_equal_scores_give_as_many_different_candidates(tile):
    score = jnp.zeros((24, 24))
    keys = best_keys(score, jnp.zeros(24), jnp.arange(24), count=7, tile=tile)
    queries = best_queries(score, jnp.zeros(24), skip=0, count=7, tile=tile)
    for found in (keys, queries):
        np.testing.assert_array_equal(found.score, 0)
        assert all(len(set(row.tolist())) == 7 for row in found.index)
    assert not (keys.index == jnp.arange(24)[:, None]).any()


def candidates_of(total: np.ndarray, places: np.ndarray, count: int) -> Candidates:
    order = np.argsort(-total[:, places], axis=1)[:, :count]
    best = np.take_along_axis(total[:, places], order, axis=1)
    index = places[order].astype(np.int32)
    return Candidates(*map(jnp.asarray, (best, np.float32(index) ** 2, index)))


def test_merging_keeps_the_best_of_both():
    total = normal(30, 24)
    places = np.random.default_rng(1).permutation(24)
    found = merged(
        candidates_of(total, places[:10], 6),
        candidates_of(total, places[10:], 4),
    )
    order = np.argsort(-total, axis=1)[:, :6]
    # The second offers only 4, which hold all of its that are among the best 4 of all.
    np.testing.assert_array_equal(np.asarray(found.index)[:, :4], order[:, :4])
    np.testing.assert_array_equal(found.squared, found.index**2)
    np.testing.assert_array_equal(found.score, take(jnp.asarray(total), found.index))
    assert (np.diff(found.score, axis=1) <= 0).all()


def test_candidates_are_merged_into_none():
    total = normal(30, 24)
    more = candidates_of(total, np.arange(24), 4)
    found = merged(no_candidates(jnp.zeros((30, 2)), 6), more)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:, :4], y), found, more)
    np.testing.assert_array_equal(found.score[:, 4:], -np.inf)
    np.testing.assert_array_equal(found.squared[:, 4:], np.inf)


@pytest.mark.parametrize("together", [True, False])
def test_distances_are_of_coordinates(together):
    queries, keys = normal(5, 9), normal(11, 9, seed=1)
    index = np.random.default_rng(2).integers(0, 11, (5, 3)).astype(np.int32)
    score = np.zeros((5, 3), np.float32)
    score[1, 2] = -np.inf
    found = measured(
        Candidates(jnp.asarray(score), jnp.full((5, 3), jnp.inf), jnp.asarray(index)),
        jnp.asarray(queries),
        jnp.asarray(keys),
        together=together,
    )
    expected = np.sum((keys[index].astype(np.float64) - queries[:, None]) ** 2, axis=2)
    expected[1, 2] = np.inf
    np.testing.assert_allclose(found.squared, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.index, index)


def test_tpus_take_values_by_comparing_places_with_the_same_result():
    values, places = normal(5, 9), np.random.default_rng(1).integers(0, 9, (5, 4))
    values[2] = np.inf
    values[3, ::2] = -np.inf
    places = jnp.asarray(places.astype(np.int32))
    for given in (jnp.asarray(values), jnp.arange(45, dtype=jnp.int32).reshape(5, 9)):
        found = selection._compared(given, places)
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found, take(given, places))


def test_products_of_bfloat16_are_added_up_in_float32():
    queries = normal(5, 2000).astype(jnp.bfloat16)
    keys = normal(7, 2000, seed=1).astype(jnp.bfloat16)
    expected = queries.astype(np.float64) @ keys.astype(np.float64).T
    found = scores(jnp.asarray(queries), jnp.asarray(keys))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)
