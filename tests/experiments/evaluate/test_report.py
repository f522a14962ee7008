"""What an evaluation shows, against the numbers that went in."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluate.report import FILES, tabled
from ilo_jax.evaluation.answers import AnswerScores
from ilo_jax.evaluation.held_out import TextScores
from ilo_jax.metrics import ChoiceScores

LANGUAGES = ["swe_Latn", "xyz_Latn", "dan_Latn"]


def test_texts_are_shown_by_family_with_their_mean_and_written_as_they_come():
    scores = TextScores(np.array([1.0, 2.5, 4.0]), np.array([0.5, 0.25, 0.75]), np.arange(7, 10))
    table = tabled("texts", scores, LANGUAGES)
    assert [line.split() for line in table.text.splitlines()] == [
        ["language", "bits_per_byte", "loss_per_token", "tokens"],
        ["dan_Latn", "4.000", "0.750", "9"],
        ["swe_Latn", "1.000", "0.500", "7"],
        ["xyz_Latn", "2.500", "0.250", "8"],
        ["mean", "2.500", "0.500"],
    ]
    assert [row["language"] for row in table.rows] == LANGUAGES
    assert [row["bits_per_byte"] for row in table.rows] == [1, 2.5, 4]
    assert [row["tokens"] for row in table.rows] == [7, 8, 9]


def test_answers_are_of_the_languages_of_the_questions():
    share = jnp.array([0.5, 1.0])
    shares = ChoiceScores(share, share, share, questions=jnp.array([4, 2]))
    scores = AnswerScores(("de", "en"), jax.tree.map(np.asarray, shares))
    table = tabled("answers", scores, LANGUAGES)
    assert table.header == ("language", *ChoiceScores._fields)
    assert [(row["language"], row["accuracy"]) for row in table.rows] == [("de", 0.5), ("en", 1)]
    assert table.text.splitlines()[-1].split() == ["mean", "0.750", "0.750", "0.750"]


def test_retrieval_is_told_from_and_to_every_language():
    """By hand, for two states of three languages; a language is not searched for in itself."""
    retrieved = np.array([[0.0, 0.2, 0.4], [0.6, 0.0, 0.8], [1.0, 0.1, 0.0]])
    np.fill_diagonal(retrieved, np.nan)
    table = tabled("retrieved", np.stack([retrieved, retrieved / 2]), LANGUAGES)
    assert [(row["state"], row["language"]) for row in table.rows] == [
        (state, language) for state in range(2) for language in LANGUAGES
    ]
    finding, found = [0.3, 0.7, 0.55], [0.8, 0.15, 0.6]
    for name, values in (("finding", finding), ("found", found)):
        shown = [row[name] for row in table.rows]
        np.testing.assert_allclose(shown, [*values, *np.divide(values, 2)])
    lines = [line.split() for line in table.text.splitlines()]
    assert lines == [["state", "retrieval"], ["0", "0.517"], ["1", "0.258"]]


def test_every_table_has_a_file():
    assert list(FILES) == ["texts", "answers", "retrieved"]
    assert all(name.endswith(".csv") for name in FILES.values())
