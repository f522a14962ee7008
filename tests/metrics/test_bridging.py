"""The parts of ILO, against loops over sets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.metrics import bridge, reach, touched
from ilo_jax.metrics.bridging import number_of


def random(points: int, lang: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours and labels, some of them absent."""
    rng = np.random.default_rng(points)
    index = rng.integers(0, points, (points, k))
    index[rng.random(points) < 0.1] = -1
    # Any label out of range is none, also one that would count from the end.
    languages = rng.choice([-1, -2, lang, *range(lang)], points)
    return index.astype(np.int32), languages.astype(np.int32)


def expected(index, languages, lang):
    """Languages touched by each point, as sets."""
    return [
        {languages[j] for j in row if j >= 0} & {*range(lang)} - {own}
        for row, own in zip(index, languages, strict=True)
    ]


SIZES = [(50, 3, 2), (300, 12, 5), (9000, 4, 3), (2000, 204, 64)]


@pytest.mark.parametrize(("points", "lang", "k"), SIZES)
def test_against_sets(points, lang, k):
    index, languages = random(points, lang, k)
    sets = expected(index, languages, lang)
    # Traced, for known labels of no language are an error.
    touches = jax.jit(touched, static_argnames="num_languages")(
        jnp.asarray(index), jnp.asarray(languages), num_languages=lang
    )
    assert [{*np.flatnonzero(row)} for row in np.asarray(touches)] == sets
    shares = jax.jit(partial(bridge, min_languages=2))(touches, jnp.asarray(languages))
    reached = jax.jit(reach)(touches, jnp.asarray(languages))
    for language in range(lang):
        mine = [s for s, own in zip(sets, languages, strict=True) if own == language]
        share = np.float32(sum(len(s) >= 2 for s in mine)) / np.float32(len(mine))
        others = len({*languages} & {*range(lang)}) - 1
        np.testing.assert_array_equal(shares[language], share)
        np.testing.assert_array_equal(
            reached[language], np.float32(len(set.union(*mine))) / np.float32(others)
        )


def test_one_point_among_many_reaches():
    """A union, not a mean: by the first point, or the last of those that fill no whole block."""
    none, languages = jnp.zeros((5000, 3), bool), jnp.arange(5000) % 2
    np.testing.assert_array_equal(reach(none.at[4999, 2].set(True), languages), [0, 1, np.nan])
    np.testing.assert_array_equal(reach(none.at[0, 1].set(True), languages), [1, 0, np.nan])


def test_numbers_of_each_language():
    languages = jnp.array([0, 2, 2, -1, 3, 2])
    counted = jnp.array([True, True, False, True, True, True])
    np.testing.assert_array_equal(number_of(counted, languages, 3), [1, 0, 2])


def test_under_vmap():
    index, languages = random(60, 4, 3)
    touches = jax.jit(touched, static_argnames="num_languages")(
        jnp.asarray(index), jnp.asarray(languages), num_languages=4
    )
    both = jax.jit(jax.vmap(reach, (0, None)))
    twice = both(jnp.stack([touches, ~touches]), jnp.asarray(languages))
    np.testing.assert_array_equal(twice[0], jax.jit(reach)(touches, jnp.asarray(languages)))
