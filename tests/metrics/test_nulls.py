"""Chance levels against closed forms, and against data in which meaning is or is not shared."""

import re
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.metrics import Neighbors, ceiling, gaussian, ilo, nearest, tally
from ilo_jax.metrics.nulls import _draw, _keys, _shuffle
from ilo_jax.sharding import make_mesh

SETTINGS = {"k": 5, "min_languages": 3, "distance": "cosine"}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ceiling_of(states, *, seed: int = 0, permutations: int = 20) -> jax.Array:
    lang, sent, dim = states.shape
    return ceiling(
        nearest(jnp.asarray(states).reshape(-1, dim), k=5),
        jnp.repeat(jnp.arange(lang), sent),
        num_languages=lang,
        min_languages=3,
        seed=seed,
        permutations=permutations,
    )


def bridge_by_chance(lang: int, *, k: int, t: int) -> float:
    """Chance that k labels, drawn at random from many, hold t languages other than one's own."""

    def others(m: int) -> float:
        """Exactly m given others, and possibly one's own."""
        return sum((-1) ** i * comb(m, i) * ((m - i + 1) / lang) ** k for i in range(m + 1))

    return sum(comb(lang - 1, m) * others(m) for m in range(t, k + 1))


@pytest.mark.parametrize("lang", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_ceiling_is_what_chance_gives(lang):
    """Languages far apart score 0, and mixed labels what the closed form says."""
    states = normal(lang, 1200 // lang, 16) + 20 * normal(lang, 1, 16, seed=1)
    np.testing.assert_array_equal(ilo(jnp.asarray(states)).ilo, 0)
    share = bridge_by_chance(lang, k=5, t=3)
    np.testing.assert_allclose(ceiling_of(states).mean(), 2 * share / (share + 1), atol=0.01)


def test_random_labels_score_their_ceiling():
    states = normal(6, 100, 16)
    scores = ilo(jnp.asarray(states)).ilo
    np.testing.assert_allclose(scores, ceiling_of(states), atol=0.06)
    np.testing.assert_allclose(scores.mean(), ceiling_of(states).mean(), atol=0.02)


def test_the_seed_decides():
    states = normal(6, 100, 16)
    one = ceiling_of(states, seed=1)
    np.testing.assert_array_equal(one, ceiling_of(states, seed=1))
    assert (one != ceiling_of(states, seed=2)).any()
    null = gaussian(jnp.asarray(states), seed=1, **SETTINGS)
    np.testing.assert_array_equal(null, gaussian(jnp.asarray(states), seed=1, **SETTINGS))
    assert (null != gaussian(jnp.asarray(states), seed=2, **SETTINGS)).any()


def test_all_bits_of_a_seed_decide():
    """And those below 2^32 draw what `jax.random.key` draws from them."""
    seeds = (1, 1 + 2**32, 1 + 2**62)
    words = {tuple(jax.random.key_data(key).tolist()) for s in seeds for key in _keys(s, number=2)}
    assert len(words) == 2 * len(seeds)
    plain = jax.random.split(jax.random.key(7, impl="threefry2x32"), 3)
    found = jax.random.key_data(_keys(7, number=3))
    np.testing.assert_array_equal(found, jax.random.key_data(plain))


@pytest.mark.parametrize("distance", ["cosine", pytest.param("euclidean", marks=pytest.mark.slow)])
def test_the_scale_of_states_changes_no_null(distance):
    """Up to where their sum overflows, and down to where draws would be subnormal."""
    states = normal(6, 100, 16) + 0.5 * normal(6, 1, 16, seed=1)
    settings = SETTINGS | {"distance": distance}
    expected = gaussian(jnp.asarray(states), seed=0, **settings)
    for scale in (2.0**-124, 2.0**-60, 2.0**125):
        scaled = jnp.asarray(states * np.float32(scale))
        assert jnp.isfinite(scaled).all()
        np.testing.assert_array_equal(gaussian(scaled, seed=0, **settings), expected)
        assert jnp.isfinite(ilo(scaled, distance=distance).ilo).all()


def test_languages_of_very_different_scales_have_a_null_under_cosine():
    states = normal(6, 100, 16) + 0.5 * normal(6, 1, 16, seed=1)
    scales = np.exp2(np.arange(-120, 120, 40, dtype=np.float32))[:, None, None]
    np.testing.assert_array_equal(null_of(states * scales), null_of(states))


def test_a_permutation_keeps_the_neighbours():
    """All neighbours of the last point are of no language, so its language reaches nothing."""
    index = jnp.array([[1, 2], [0, 2], [0, 1], [5, 4], [-1, -1], [-1, -1]])
    neighbors = Neighbors(
        index, jnp.zeros(6, bool), jnp.array([False] * 4 + [True] * 2), jnp.zeros(6, bool)
    )
    labels = jnp.array([0, 1, 2, -1, 0, 1])
    counts = {"num_languages": 3, "min_languages": 2}
    scores = tally(neighbors, labels, **counts)
    np.testing.assert_array_equal(scores.ilo, 1)
    np.testing.assert_array_equal(ceiling(neighbors, labels, seed=0, **counts), 1)


def test_only_counted_points_trade_labels():
    """A language keeps its counted points: none stays none, and one stays one."""
    states = jnp.asarray(normal(8, 60, 16)).at[0].set(jnp.nan).at[1, 1:].set(0)
    found = ceiling_of(states)
    np.testing.assert_array_equal(jnp.isnan(found), [True] + [False] * 7)
    # One point reaches at most 5 of the 6 others that are there, and not all of them.
    assert found[1] < 10 / 11
    assert (found[2:] > 0.8).all()


def test_labels_of_no_language_are_not_traded():
    """Neither those below the first language, nor those beyond the last."""
    labels = jnp.array([0, 1, -1, 2, 3, 4, 7] * 20)
    shuffled = _shuffle(jax.random.key(0), labels, 4)
    outside = (labels < 0) | (labels >= 4)
    np.testing.assert_array_equal(shuffled[outside], labels[outside])
    np.testing.assert_array_equal(jnp.sort(shuffled), jnp.sort(labels))
    assert (shuffled != labels).any()


def test_points_of_no_language_keep_their_place():
    """Padding and its labels take no part: half the points are a far cloud of no language."""
    states = normal(4, 100, 16)
    points = jnp.asarray(np.concatenate([states.reshape(400, 16), normal(400, 16) + 50]))
    labels = jnp.append(jnp.repeat(jnp.arange(4), 100), jnp.full(400, -1))
    neighbors = nearest(points, k=5, distance="euclidean")
    found = ceiling(neighbors, labels, num_languages=4, min_languages=3, seed=0)
    share = bridge_by_chance(4, k=5, t=3)
    np.testing.assert_allclose(found, 2 * share / (share + 1), atol=0.05)


def test_gaussian_of_clouds_far_apart_is_zero():
    states = jnp.asarray(normal(6, 100, 16) + 20 * normal(6, 1, 16, seed=1))
    np.testing.assert_array_equal(gaussian(states, seed=0, **SETTINGS), 0)


@pytest.mark.parametrize("dim", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_gaussian_of_one_cloud_is_near_its_ceiling(dim):
    """Also where sentences are fewer than dimensions, as long as few of these matter."""
    states = normal(6, 100, dim) / np.arange(1, dim + 1, dtype=np.float32)
    np.testing.assert_allclose(null_of(states), ceiling_of(states), atol=0.1)


def test_gaussian_reads_low_where_more_dimensions_matter_than_there_are_sentences():
    states = normal(6, 100, 200)
    assert (null_of(states) < 0.5 * ceiling_of(states)).all()


def test_translations_score_above_their_gaussian_and_unrelated_sentences_do_not():
    offset = 0.5 * normal(6, 1, 16, seed=1)
    shared = normal(1, 100, 16, seed=2) + 0.3 * normal(6, 100, 16, seed=3) + offset
    unrelated = normal(6, 100, 16, seed=4) * np.float32(np.sqrt(1.09)) + offset
    assert (ilo(jnp.asarray(shared)).ilo > null_of(shared) + 0.3).all()
    score, null = ilo(jnp.asarray(unrelated)).ilo, null_of(unrelated)
    np.testing.assert_allclose(score.mean(), null.mean(), atol=0.15)
    assert (jnp.maximum(score, null) < ceiling_of(unrelated) - 0.2).all()


def null_of(states) -> jax.Array:
    return gaussian(jnp.asarray(states), seed=0, **SETTINGS)


def draw(points, *, times: int = 1) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), times)
    return np.asarray(jax.jit(jax.vmap(lambda key: _draw(key, points, distance="cosine")))(keys))


def test_draws_have_the_mean_and_covariance_of_the_points():
    points = normal(6, 3) @ np.array([[1, 2, 0], [0, 1, 3], [0, 0, 0.1]], np.float32) + 5
    drawn = draw(jnp.asarray(points), times=4000)
    covariance = np.cov(points.T)
    np.testing.assert_allclose(drawn.mean((0, 1)), points.mean(0), atol=0.05)
    found = np.cov(drawn.reshape(-1, 3).T)
    np.testing.assert_allclose(found, covariance, atol=0.03 * covariance.max())
    # Points of one draw are independent: their differences vary twice as much.
    pairs = np.cov((drawn[:, 0] - drawn[:, 1]).T)
    np.testing.assert_allclose(pairs, 2 * covariance, atol=0.15 * covariance.max())


def test_draws_stay_in_the_span_of_fewer_points_than_dimensions():
    points = normal(5, 20) + 3
    away = draw(jnp.asarray(points))[0] - points.mean(0)
    basis = (points - points.mean(0))[:4]
    np.testing.assert_allclose(away, away @ np.linalg.pinv(basis) @ basis, atol=1e-5)
    assert np.linalg.matrix_rank(away, tol=1e-3) == 4


def test_draws_take_usable_points_only():
    points = jnp.asarray(normal(40, 4) * 0.01 + 7).at[3].set(jnp.inf).at[8].set(0)
    drawn = draw(points)[0]
    np.testing.assert_array_equal(np.isnan(drawn).any(1), np.isin(np.arange(40), [3, 8]))
    np.testing.assert_allclose(np.delete(drawn, [3, 8], axis=0), 7, atol=0.1)
    np.testing.assert_array_equal(draw(points[:1])[0], points[:1])


def test_gaussian_of_points_with_labels():
    """The same as by language, in any interleaving, with padding, and without unusable ends."""
    states = jnp.asarray(normal(6, 100, 16) + 0.5 * normal(6, 1, 16, seed=1)).at[2, 99].set(jnp.nan)
    expected = null_of(states)
    points = states.swapaxes(0, 1).reshape(600, 16)
    labels = jnp.tile(jnp.arange(6), 100)
    there = jnp.isfinite(points).all(1)
    for kept in (jnp.ones(600, bool), there):
        padded = jnp.append(points[kept], jnp.ones((7, 16)), axis=0)
        names = jnp.append(labels[kept], jnp.full(7, -1))
        found = gaussian(padded, languages=names, num_languages=6, seed=0, **SETTINGS)
        np.testing.assert_array_equal(found, expected)


def test_an_empty_language_has_no_null():
    states = jnp.asarray(normal(6, 100, 16)).at[2].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(null_of(states)), np.arange(6) == 2)
    points = states.reshape(600, 16)
    labels = jnp.repeat(jnp.array([0, 1, -1, 3, 4, 5]), 100)
    found = gaussian(points, languages=labels, num_languages=6, seed=0, **SETTINGS)
    np.testing.assert_array_equal(found, null_of(states))


def test_under_jit():
    states = jnp.asarray(normal(6, 100, 16))
    np.testing.assert_array_equal(jax.jit(null_of)(states), null_of(states))
    np.testing.assert_array_equal(jax.jit(ceiling_of)(states), ceiling_of(states))


def test_devices_share_the_search_of_the_draws():
    states = jnp.asarray(normal(6, 99, 16))
    alone = gaussian(states, seed=0, **SETTINGS)
    together = gaussian(states, seed=0, mesh=make_mesh(data=8), **SETTINGS)
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def test_impossible_settings_are_refused():
    states = jnp.zeros((4, 30, 8))
    message = (
        "k must be in [1, 119] for 120 points, got 120; "
        "distance must be one of cosine, euclidean, got 'dot'; "
        "min_languages must be in [1, 3] for k=120 and 4 languages, got 4; "
        "draws must be at least 1, got 0"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        gaussian(states, k=120, min_languages=4, distance="dot", seed=0, draws=0)
    with pytest.raises(ValueError, match=r"^states must have the shape .* with neither$"):
        gaussian(states[0], seed=0, **SETTINGS)
    neighbors = nearest(states.reshape(120, 8), k=2, distance="euclidean")
    message = (
        "there must be at least 2 languages, got 1; "
        "min_languages must be in [1, 1] for k=2 and 1 languages, got 3; "
        "permutations must be at least 1, got 0"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        ceiling(
            neighbors,
            jnp.zeros(120, int),
            num_languages=1,
            min_languages=3,
            seed=0,
            permutations=0,
        )


def test_labels_that_name_no_language_are_refused():
    message = "some label must be in [0, 4), got none of 24"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gaussian(
            jnp.asarray(normal(24, 8)),
            languages=jnp.full(24, -1),
            num_languages=4,
            seed=0,
            **SETTINGS,
        )
