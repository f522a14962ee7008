"""All public metrics give the same under any settings of JAX that an importing program may have.

Types, ranks and precisions are written out wherever a setting would choose them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax import metrics
from ilo_jax.sharding import make_mesh

LANG, SENT, DIM = 3, 16, 4
SETTINGS = metrics.IloSettings(k=3, min_languages=2, permutations=2, draws=2, seed=2**40 + 1)
LABELS = np.repeat(np.arange(LANG, dtype=np.int32), SENT)
RNG = np.random.default_rng(0)
STATES = RNG.standard_normal((LANG, SENT, DIM)).astype(np.float32)
# Left out.
STATES[0, 3] = np.nan
LIKELIHOODS = RNG.standard_normal((SENT, DIM)).astype(np.float32)
# The last one has nothing.
LANGUAGES = np.arange(SENT, dtype=np.int32) % 3 - 1


def all_metrics(
    states: jax.Array,
    points: jax.Array,
    labels: jax.Array,
    likelihoods: jax.Array,
    languages: jax.Array,
) -> dict[str, Any]:
    """What every public function gives, by its name, where some points are not there."""
    counts = {"num_languages": LANG + 1, "min_languages": 2}
    search = {"k": 3, "distance": "cosine"}
    labelled = {"languages": labels, **counts, **search}
    neighbors = metrics.nearest(points, **search)
    touches = metrics.touched(neighbors.index, labels, num_languages=LANG + 1)
    one = metrics.referenced(states, settings=SETTINGS)
    lengths = jnp.ones(likelihoods.shape, jnp.int32)
    return {
        "nearest": neighbors,
        "by pairs": metrics.nearest(points, symmetric=True, precision="fast", block=8, **search),
        "on a mesh": metrics.nearest(points, mesh=make_mesh(data=2), **search),
        "touched": touches,
        "bridge": metrics.bridge(touches, labels, min_languages=2),
        "reach": metrics.reach(touches, labels),
        "tally": metrics.tally(neighbors, labels, **counts),
        "ceiling": metrics.ceiling(neighbors, labels, seed=2**40 + 1, permutations=2, **counts),
        "ilo": metrics.ilo(points, **labelled),
        "gaussian": metrics.gaussian(points, seed=2**40 + 1, draws=2, **labelled),
        "referenced": one,
        "stacked": metrics.stacked([one]),
        "retrieval": metrics.retrieval(states),
        "choices": metrics.choices(
            likelihoods, lengths, jnp.zeros_like(languages), languages, num_languages=3
        ),
    }


# Made before anything is set, for JAX itself refuses to make NaN where that is an error.
GIVEN = tuple(map(jnp.asarray, (STATES, STATES.reshape(-1, DIM), LABELS, LIKELIHOODS, LANGUAGES)))


@contextlib.contextmanager
def configured(**values: Any) -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return jax.tree.map(np.asarray, all_metrics(*GIVEN))


# All at once, for each by itself would be a compile more.
STRICT: dict[str, Any] = {
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_default_matmul_precision": "F16_F16_F32",
    "jax_threefry_partitionable": False,
    "jax_default_prng_impl": "rbg",
    "jax_random_seed_offset": 7,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_check_tracer_leaks": True,
}
USERS: dict[str, dict[str, Any]] = {
    "single precision": STRICT,
    "double precision": STRICT | {"jax_enable_x64": True},
}


@pytest.mark.parametrize("settings", USERS.values(), ids=USERS)
def test_the_same_whatever_is_set(settings, expected):
    with configured(**settings):
        found = jax.tree.map(np.asarray, all_metrics(*GIVEN))
    for name, scores in expected.items():
        given, wanted = jax.tree.leaves(found[name]), jax.tree.leaves(scores)
        for leaf, like in zip(given, wanted, strict=True):
            assert (leaf.dtype, leaf.shape) == (like.dtype, like.shape), name
            np.testing.assert_array_equal(leaf, like, err_msg=name)
    assert {*metrics.__all__} - {*expected} == {
        "DISTANCES", "PRECISIONS", "ChoiceScores", "IloScores", "IloSettings", "Neighbors",
        "ReferencedScores", "check_settings",
    }  # fmt: skip


@pytest.mark.slow
def test_without_jit(expected):
    with configured(jax_disable_jit=True, jax_debug_nans=True, jax_debug_infs=True):
        _, points, labels, _, _ = GIVEN
        counts: dict[str, Any] = {"num_languages": LANG + 1, "min_languages": 2}
        found = metrics.ilo(points, languages=labels, k=3, **counts)
    for leaf, like in zip(found, expected["ilo"], strict=True):
        np.testing.assert_array_equal(leaf, like)


def test_under_jit_with_traced_double_precision():
    """Also labels and points of 64 bits, and what the transforms of JAX make of them."""
    expected = metrics.ilo(GIVEN[0], k=3, min_languages=2)
    with configured(jax_enable_x64=True, jax_numpy_dtype_promotion="strict"):
        points = jnp.asarray(STATES.reshape(1, -1, DIM), jnp.float64)
        labels = jnp.asarray(LABELS[None], jnp.int64)

        def score(points: jax.Array, labels: jax.Array) -> metrics.IloScores:
            return metrics.ilo(points, languages=labels, num_languages=LANG, k=3, min_languages=2)

        found = jax.jit(jax.vmap(score))(points, labels)
    for leaf, like in zip(found, expected, strict=True):
        np.testing.assert_array_equal(leaf[0], like)
