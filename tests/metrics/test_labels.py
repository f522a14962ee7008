"""Labels: which are languages, which are none, and which are an error where they are known."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.metrics import bridge, ceiling, ilo, nearest, reach, tally, touched
from ilo_jax.metrics.labels import count_languages, language_errors

POINTS = jnp.asarray(np.random.default_rng(0).standard_normal((200, 4)), jnp.float32)
LABELS = jnp.tile(jnp.arange(100), 2)
COUNTS: dict[str, Any] = {"num_languages": 100, "min_languages": 2}
MESSAGE = (
    "languages must be in [0, 100), or -1 for no language, got labels from 1 to 100; count from 0, "
    "or give a larger number of languages"
)
NEIGHBORS = nearest(POINTS, k=5)
TOUCHES = touched(NEIGHBORS.index, LABELS, num_languages=100)
REFUSING = {
    "ilo": lambda labels: ilo(POINTS, languages=labels, **COUNTS),
    "tally": lambda labels: tally(NEIGHBORS, labels, **COUNTS),
    "ceiling": lambda labels: ceiling(NEIGHBORS, labels, seed=0, **COUNTS),
    "touched": lambda labels: touched(NEIGHBORS.index, labels, num_languages=100),
    "bridge": lambda labels: bridge(TOUCHES, labels, min_languages=2),
    "reach": lambda labels: reach(TOUCHES, labels),
}


@pytest.mark.parametrize("score", REFUSING.values(), ids=REFUSING)
def test_labels_from_one_are_refused_where_they_are_known(score):
    with pytest.raises(ValueError, match=f"^{re.escape(MESSAGE)}$"):
        score(LABELS + 1)
    # -1 is none, and what is traced is not known.
    score(LABELS.at[3].set(-1))
    jax.eval_shape(score, LABELS + 1)


def test_labels_are_known_beside_points_that_are_traced():
    labels = LABELS + 1
    with pytest.raises(ValueError, match=f"^{re.escape(MESSAGE)}"):
        jax.jit(lambda points: ilo(points, languages=labels, **COUNTS))(POINTS)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int16])
def test_labels_may_be_of_few_bits(dtype):
    """Also where the number of languages, 200 with empty ones, has more."""
    settings: dict[str, Any] = {"num_languages": 200, "min_languages": 2}
    wide = ilo(POINTS, languages=LABELS, **settings)
    found = ilo(POINTS, languages=LABELS.astype(dtype), **settings)
    jax.tree.map(np.testing.assert_array_equal, found, wide)
    assert np.isfinite(wide.ilo[:100]).all()


def test_numpy_labels_are_not_cut_to_32_bits_before_they_are_looked_at():
    (message,) = language_errors(np.array([0, 2**32]), 2)
    assert "got labels from 0 to 4294967296" in message
    assert language_errors(np.array([-1, 1]), 2) == []


def test_the_number_of_languages_is_told_once():
    assert count_languages(POINTS.reshape(4, 50, 4), None, None) == 4
    assert count_languages(POINTS, LABELS, 100) == 100
