"""A score with its references: each what its own function gives, in one call that jit takes."""

import dataclasses
import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from ilo_jax.metrics import (
    IloScores,
    IloSettings,
    ReferencedScores,
    ceiling,
    gaussian,
    ilo,
    nearest,
    referenced,
    stacked,
)
from ilo_jax.sharding import along_data, make_mesh

LANG, SENT, DIM = 6, 30, 8
SETTINGS = IloSettings(k=4, min_languages=2, permutations=3, draws=2, seed=7)


def clouds(*shape: int, seed: int = 0) -> np.ndarray:
    """Translations, languages somewhat apart."""
    rng = np.random.default_rng(seed)
    meaning, language = rng.standard_normal((1, SENT, DIM)), rng.standard_normal((LANG, 1, DIM))
    noise = rng.standard_normal((*shape, LANG, SENT, DIM))
    return (meaning + language + noise / 2).astype(np.float32)


def same(one: ReferencedScores, other: ReferencedScores) -> None:
    for name, value in one._asdict().items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


@pytest.fixture(scope="module")
def states() -> jax.Array:
    """With a point that is left out, and two that tie."""
    return jnp.asarray(clouds()).at[1, 2].set(jnp.nan).at[3, 4].set(clouds()[2, 4])


@pytest.fixture(scope="module")
def scores(states) -> ReferencedScores:
    return referenced(states, settings=SETTINGS)


@pytest.mark.parametrize(
    ("precision", "distance"),
    [
        ("fast", "cosine"),
        pytest.param("exact", "euclidean", marks=pytest.mark.slow),
        pytest.param("exact", "cosine", marks=pytest.mark.slow),
        pytest.param("fast", "euclidean", marks=pytest.mark.slow),
    ],
)
def test_each_is_what_its_own_function_gives(states, distance, precision):
    settings = dataclasses.replace(SETTINGS, distance=distance, precision=precision)
    found = referenced(states, settings=settings)
    search = {"k": 4, "distance": distance, "precision": precision}
    plain = ilo(states, min_languages=2, **search)
    # States by language leave none out by its label.
    assert {*IloScores._fields} - {*ReferencedScores._fields} == {"unlabelled"}
    for name in {*IloScores._fields} & {*ReferencedScores._fields}:
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), err_msg=name)
    labels = jnp.repeat(jnp.arange(LANG), SENT)
    shuffled = ceiling(
        nearest(states.reshape(-1, DIM), **search),
        labels,
        num_languages=LANG,
        min_languages=2,
        seed=7,
        permutations=3,
    )
    np.testing.assert_array_equal(found.ceiling, shuffled)
    null = gaussian(states, min_languages=2, seed=7, draws=2, **search)
    np.testing.assert_array_equal(found.gaussian, null)
    assert found.unusable.tolist() == [0, 1, 0, 0, 0, 0]


def test_by_default_it_is_the_papers_setting():
    settings = IloSettings()
    assert (settings.k, settings.min_languages, settings.distance) == (5, 3, "cosine")
    assert (settings.permutations, settings.draws, settings.seed) == (20, 5, 0)
    states = jnp.asarray(clouds())
    found, plain = referenced(states), ilo(states)
    np.testing.assert_array_equal(found.ilo, plain.ilo)


@pytest.mark.slow
def test_under_jit(states, scores):
    same(jax.jit(partial(referenced, settings=SETTINGS))(states), scores)


def test_under_jit_layer_by_layer(states):
    score = partial(referenced, settings=SETTINGS)
    layers = jnp.stack([states, jnp.asarray(clouds(seed=1))])
    same(stacked(list(map(score, layers))), jax.jit(partial(jax.lax.map, score))(layers))


@pytest.mark.parametrize("jitted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_over_a_mesh_every_device_has_the_same_scores(states, scores, jitted):
    mesh = make_mesh(data=8)
    score = partial(referenced, settings=SETTINGS, mesh=mesh)
    along = jax.device_put(jnp.asarray(states), along_data(mesh, axis=2))
    found = (jax.jit(score) if jitted else score)(along)
    for name, value in found._asdict().items():
        assert value.sharding.is_fully_replicated
        assert value.sharding.device_set == set(mesh.devices.ravel())
        wanted = getattr(scores, name)
        np.testing.assert_allclose(value, wanted, rtol=1e-6, err_msg=name)


def shared(jaxpr) -> int:
    """How many searches run over a mesh, those of inner functions included."""
    inner = (sum(map(shared, jaxprs_in_params(eqn.params))) for eqn in jaxpr.eqns)
    return sum(inner) + sum(eqn.primitive.name == "shard_map" for eqn in jaxpr.eqns)


def test_a_mesh_shares_the_search_and_those_of_the_draws(states):
    """Scores alone would not tell: without it they are the same, on one device."""
    score = partial(referenced, settings=SETTINGS, mesh=make_mesh(data=8))
    assert shared(jax.make_jaxpr(score)(states).jaxpr) == 2


def test_a_mesh_of_explicit_axes_is_taken_too(states, scores):
    mesh = jax.make_mesh((8,), ("any",))
    found = referenced(states, settings=SETTINGS, mesh=mesh)
    np.testing.assert_allclose(found.ilo, scores.ilo, rtol=1e-6)


def test_the_seed_decides_the_references_only(states, scores):
    other = referenced(states, settings=dataclasses.replace(SETTINGS, seed=8))
    np.testing.assert_array_equal(other.ilo, scores.ilo)
    assert (other.ceiling != scores.ceiling).any()
    assert (other.gaussian != scores.gaussian).any()


def test_stacked_scores_have_a_leading_state():
    one = ReferencedScores(*np.arange(16, dtype=np.float32).reshape(8, 2))
    both = stacked([one, ReferencedScores(*(field + 16 for field in one))])
    assert both.bridge.tolist() == [[0, 1], [16, 17]]
    assert both.redone.tolist() == [[14, 15], [30, 31]]
    assert all(isinstance(field, np.ndarray) for field in both)


ERRORS = [
    ({"k": 180}, "k must be in [1, 179] for 180 points, got 180"),
    (
        {"distance": "dot", "precision": "low", "min_languages": 5},
        "distance must be one of cosine, euclidean, got 'dot'; precision must be one of exact, "
        "fast, got 'low'; min_languages must be in [1, 4] for k=4 and 6 languages, got 5",
    ),
    (
        {"permutations": 0, "draws": -1, "seed": -1},
        "permutations must be at least 1, got 0; draws must be at least 1, got -1; "
        "seed must be in [0, 2^63 - 1], got -1",
    ),
    ({"seed": 2**63}, "seed must be in [0, 2^63 - 1], got 9223372036854775808"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=lambda v: str(v)[:30])
def test_impossible_settings_are_refused(states, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        referenced(states, settings=dataclasses.replace(SETTINGS, **change))


def test_points_without_languages_are_refused():
    """Callers have no shape checks: the function is called as they call it."""
    message = "states must have the shape (lang, sent, dim), got (180, 8)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        inspect.unwrap(referenced)(jnp.zeros((180, 8)))
