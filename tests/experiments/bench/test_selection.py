"""What is timed selects the best scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.selection import found_of, ways

SCORE = jax.random.normal(jax.random.key(0), (9, 240))
BEST = -np.sort(-np.asarray(SCORE), axis=1)[:, :7]
WAYS = ways(240, 7, [1, 8, 60])
EXACT = [name for name in WAYS if name not in ("packed integers", "one maximum")]


@pytest.mark.parametrize("name", EXACT)
def test_the_best_are_selected(name):
    np.testing.assert_array_equal(WAYS[name](SCORE), BEST)


def test_packed_integers_select_nearly_the_best():
    np.testing.assert_allclose(WAYS["packed integers"](SCORE), BEST, rtol=2**-6)
    coarse = jnp.round(SCORE * 8) / 8
    found = WAYS["packed integers"](coarse)
    np.testing.assert_array_equal(found, -np.sort(-np.asarray(coarse), axis=1)[:, :7])


def test_places_that_fit_no_packed_integer_are_not_packed():
    assert "packed integers" not in ways(2**16 + 1, 7, [1])


def test_share_that_was_found():
    assert found_of(np.array([[5, 4], [3, 1]]), np.array([[5, 4], [3, 2]])) == 0.75
