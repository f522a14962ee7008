"""Multiple choice, by hand and against loops."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.metrics.choices import ChoiceScores, choices


def scored(rows, lengths, answers, languages, *, num_languages: int) -> ChoiceScores:
    """Scores of ragged lists."""
    width = max(map(len, rows))
    likelihoods = np.full((len(rows), width), 0.0, np.float32)
    sizes = np.zeros((len(rows), width), np.int32)
    for i, (row, own) in enumerate(zip(rows, lengths, strict=True)):
        likelihoods[i, : len(row)], sizes[i, : len(own)] = row, own
    return choices(
        jnp.asarray(likelihoods),
        jnp.asarray(sizes),
        jnp.array(answers),
        jnp.array(languages),
        num_languages=num_languages,
    )


def test_the_longer_option_wins_only_by_length():
    """-6 / 2 is below -8 / 4."""
    scores = scored([[-6, -8]], [[2, 4]], [1], [0], num_languages=1)
    assert scores.accuracy.tolist() == [0]
    assert scores.normalized.tolist() == [1]
    assert scores.chance.tolist() == [0.5]
    assert scores.questions.tolist() == [1]


def test_languages_are_counted_apart():
    rows = [[-1, -2], [-2, -1], [-1, -2, -3], [-3, -2, -1]]
    lengths = [[1] * len(row) for row in rows]
    scores = scored(rows, lengths, [0, 0, 0, 2], [0, 1, 0, 1], num_languages=2)
    np.testing.assert_array_equal(scores.accuracy, [1, 0.5])
    np.testing.assert_array_equal(scores.normalized, [1, 0.5])
    np.testing.assert_allclose(scores.chance, [(1 / 2 + 1 / 3) / 2] * 2, rtol=1e-6)
    np.testing.assert_array_equal(scores.questions, [2, 2])


@pytest.mark.parametrize(("answer", "right"), [(0, 1), (1, 0)])
def test_of_options_that_tie_the_first_is_chosen(answer, right):
    scores = scored([[-4, -4]], [[3, 3]], [answer], [0], num_languages=1)
    assert scores.accuracy.tolist() == scores.normalized.tolist() == [right]


def test_an_option_that_is_not_there_is_never_chosen():
    """Its log-likelihood, 0, would be the highest; impossible options still beat it."""
    rows = [[-1, -2, -3], [-5, -4], [-np.inf, -np.inf]]
    lengths = [[1] * len(row) for row in rows]
    scores = scored(rows, lengths, [0, 1, 0], [0, 0, 0], num_languages=1)
    assert scores.accuracy.tolist() == scores.normalized.tolist() == [1]


def test_what_is_not_a_number_spoils_its_own_language_only():
    rows = [[-1, np.nan], [-1, -2], [-2, -1]]
    scores = scored(rows, [[1, 1]] * 3, [0, 0, 0], [0, 1, 1], num_languages=3)
    np.testing.assert_array_equal(scores.accuracy, [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(scores.normalized, [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(scores.chance, [0.5, 0.5, np.nan])
    np.testing.assert_array_equal(scores.questions, [1, 2, 0])


def test_other_labels_count_nowhere():
    """Where they are known, all but -1 are an error."""
    wrong: Any = ([[-1, -2]] * 4, [[1, 1]] * 4, [0, 1, 1, 1], [0, -1, 2, 7])
    with pytest.raises(ValueError, match=r"^languages must be in \[0, 2\), or -1 .* from -1 to 7"):
        scored(*wrong, num_languages=2)
    given = (jnp.array(wrong[0], jnp.float32), *map(jnp.array, wrong[1:]))
    scores = jax.jit(choices, static_argnames="num_languages")(*given, num_languages=2)
    np.testing.assert_array_equal(scores.questions, [1, 0])
    np.testing.assert_array_equal(scores.accuracy, [1, np.nan])


def test_against_loops_and_under_jit():
    rng = np.random.default_rng(0)
    rows = [rng.normal(-20, 5, rng.integers(2, 6)).astype(np.float32) for _ in range(200)]
    lengths = [rng.integers(1, 30, len(row)) for row in rows]
    answers = [int(rng.integers(len(row))) for row in rows]
    languages = rng.integers(0, 4, 200)
    hits = np.zeros((3, 4))
    for row, own, answer, language in zip(rows, lengths, answers, languages, strict=True):
        hits[0, language] += max(range(len(row)), key=lambda i: row[i]) == answer
        hits[1, language] += max(range(len(row)), key=lambda i: row[i] / own[i]) == answer
        hits[2, language] += 1 / len(row)
    expected = hits / np.bincount(languages)
    scores = scored(rows, lengths, answers, languages, num_languages=4)
    np.testing.assert_allclose(scores[:3], expected, rtol=1e-5)
    again = jax.jit(choices, static_argnames="num_languages")
    flat = jnp.array([[-1.0, -2.0]])
    both = again(flat, jnp.array([[1, 1]]), jnp.array([0]), jnp.array([0]), num_languages=1)
    assert both.accuracy.tolist() == [1]
