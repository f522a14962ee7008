"""Retrieval against float64 loops, planted translations, chance, and what must not count."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax.metrics.retrieval import retrieval

DISTANCES = pytest.mark.parametrize("distance", ["cosine", "euclidean"])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def translated(
    *, lang: int = 4, sent: int = 40, dim: int = 32, noise: float, seed: int = 0
) -> np.ndarray:
    """Every language says the same, each in its own way."""
    return normal(sent, dim, seed=seed)[None] + noise * normal(lang, sent, dim, seed=seed + 1)


def definition(states: np.ndarray, distance: str) -> np.ndarray:
    """Shares of nearest sentences that are the translation, in float64 loops."""
    states = states.astype(np.float64)
    lang, sent, _ = states.shape
    shares = np.full((lang, lang), np.nan)
    for one, other in np.ndindex(lang, lang):
        if one == other:
            continue
        hits = 0
        for i, query in enumerate(states[one]):
            if distance == "cosine":
                lengths = np.linalg.norm(states[other], axis=1) * np.linalg.norm(query)
                far = -(states[other] @ query) / lengths
            else:
                far = np.linalg.norm(states[other] - query, axis=1)
            hits += int(np.argmin(far)) == i
        shares[one, other] = hits / sent
    return shares


@DISTANCES
def test_it_is_the_definition(distance):
    states = translated(noise=1.2) * np.array([1, 3, 0.2, 1], np.float32)[:, None, None]
    expected = definition(states, distance)
    others = expected[~np.eye(4, dtype=bool)]
    assert 0 < others.min() < others.max() < 0.95
    assert not np.allclose(expected, expected.T, equal_nan=True)
    np.testing.assert_allclose(retrieval(jnp.asarray(states), distance=distance), expected)


@DISTANCES
def test_planted_translations_are_found(distance):
    found = retrieval(jnp.asarray(translated(noise=0.1)), distance=distance)
    np.testing.assert_array_equal(found, np.where(np.eye(4, dtype=bool), np.nan, 1))


@DISTANCES
def test_what_has_no_translation_is_found_by_chance(distance):
    """Within five standard deviations of the binomial."""
    lang, sent = 6, 200
    found = np.asarray(retrieval(jnp.asarray(normal(lang, sent, 16)), distance=distance))
    hits = np.nansum(found) * sent
    expected = lang * (lang - 1)
    assert abs(hits - expected) < 5 * np.sqrt(expected)
    assert hits > 0


@DISTANCES
@pytest.mark.parametrize(("common", "cosine"), [(52.0, 0.997), (300.0, 0.9999)])
def test_a_common_direction_spoils_nothing(distance, common, cosine):
    """The first is what real states have."""
    states = translated(noise=1.8, dim=128) + np.float32(common)
    unit = states.reshape(-1, 128) / np.linalg.norm(states, axis=2).reshape(-1, 1)
    assert np.mean(unit @ unit.T) > cosine
    expected = definition(states, distance)
    assert 0.2 < np.nanmin(expected) < np.nanmax(expected) < 0.9
    np.testing.assert_allclose(retrieval(jnp.asarray(states), distance=distance), expected)


@DISTANCES
@pytest.mark.parametrize("rounding", [0, 1e-6])
def test_duplicates_are_not_found(distance, rounding):
    """Sentences 0 and 1 are one, but for the rounding of different rows; so are 7 and 39."""
    states = translated(noise=0.1)
    states[:, 1], states[:, 39] = states[:, 0], states[:, 7]
    states *= 1 + rounding * normal(*states.shape, seed=9)
    found = np.asarray(retrieval(jnp.asarray(states), distance=distance))
    np.testing.assert_allclose(found[~np.eye(4, dtype=bool)], 36 / 40)


def test_all_equal_states_find_nothing():
    """Nor do those at the origin, where there is no rounding to tell them apart by."""
    for state in (normal(8), np.zeros(8, np.float32)):
        states = jnp.asarray(np.broadcast_to(state, (3, 5, 8)))
        for distance in ("cosine", "euclidean"):
            found = np.asarray(retrieval(states, distance=distance))
            assert (found[~np.eye(3, dtype=bool)] == 0).all()


@DISTANCES
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_unusable_points_find_nothing_and_are_not_found(distance, value):
    """Even where the translation is the nearest to the centre, where unusable points are put."""
    states = translated(noise=0.05, lang=3)
    states[:, 4] = states.mean(axis=1) + 1e-3 * normal(3, 32)
    if value == 0:
        states[1, 4] = 0
    else:
        states[1, 4, 3] = value
    found = np.asarray(retrieval(jnp.asarray(states), distance=distance))
    expected = np.ones((3, 3))
    # Under euclidean, the origin is a point like others, though nobody's translation.
    expected[1, [0, 2]] = expected[[0, 2], 1] = 39 / 40
    if value == 0 and distance == "euclidean":
        expected = definition(states, distance)
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(found, expected)


def test_the_direction_is_from_row_to_column():
    """In language 1 all sentences gather at the first: that one alone still is found there."""
    states = translated(noise=0.0, lang=2)
    states[1, 1:] = 100 * normal(39, 32, seed=5)
    found = np.asarray(retrieval(jnp.asarray(states), distance="euclidean"))
    np.testing.assert_allclose(found, definition(states, "euclidean"))
    assert found[0, 1] != found[1, 0]


def test_large_and_small_values_change_nothing():
    states = translated(noise=1.0)
    expected = definition(states, "euclidean")
    for scale in (1e-18, 1e18, 1e30):
        found = retrieval(jnp.asarray(states * np.float32(scale)), distance="euclidean")
        np.testing.assert_allclose(found, expected)


def test_under_jit_map_and_on_a_mesh():
    states = np.stack([translated(noise=1.0, seed=seed) for seed in (0, 10)])
    expected = np.stack([definition(layer, "cosine") for layer in states])
    mapped = jax.jit(lambda layers: jax.lax.map(retrieval, layers))
    np.testing.assert_allclose(mapped(jnp.asarray(states)), expected)
    explicit = NamedSharding(jax.make_mesh((4,), ("x",)), PartitionSpec("x"))
    split = jax.device_put(states[0], explicit)
    np.testing.assert_allclose(retrieval(split), expected[0])


def test_what_cannot_be_measured_is_refused_all_at_once():
    message = (
        "there must be at least 2 languages of 2 sentences, got 1 of 5; "
        "distance must be one of cosine, euclidean, got 'dot'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        retrieval(jnp.ones((1, 5, 3)), distance="dot")
    with pytest.raises(ValueError, match="got 3 of 1"):
        retrieval(jnp.ones((3, 1, 3)))
