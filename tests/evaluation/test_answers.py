import numpy as np
import pytest

from ilo_jax.corpora.choices import Question
from ilo_jax.evaluation.answers import answer_scores, question_tokens
from tests.evaluation.material import BOS, VOCAB

QUESTIONS = [
    Question("c", ("d", "ee"), 1, "deu"),
    Question("", ("c", "d", "e"), 0, "deu"),
    Question("c ", ("d", "e"), 0, "eng"),
]


def test_an_option_follows_its_question_after_a_space(tokenizer, ours):
    tokens = question_tokens(QUESTIONS, tokenizer, ours.config)
    c, d, e, space = (VOCAB[byte] for byte in "cdeĠ")
    parts = np.split(tokens.tokens, np.cumsum(tokens.lengths)[:-1])
    assert [part.tolist() for part in parts] == [
        [c, space, d],
        [c, space, e, e],
        [BOS, space, c],
        [BOS, space, d],
        [BOS, space, e],
        [c, space, space, d],
        [c, space, space, e],
    ]
    given = np.split(~tokens.target, np.cumsum(tokens.lengths)[:-1])
    assert [int(part.sum()) for part in given] == [1] * 7


def test_scores_by_hand():
    """By likelihood, and for each letter: -5 / 2 is more than -3, the space before it left out."""
    scores = answer_scores(np.array([-3.0, -5, -1, -2, -3, -2, -1]), QUESTIONS)
    assert scores.languages == ("deu", "eng")
    np.testing.assert_allclose(scores.scores.accuracy, [0.5, 0])
    np.testing.assert_allclose(scores.scores.normalized, [1, 0])
    np.testing.assert_allclose(scores.scores.chance, [5 / 12, 0.5], rtol=1e-6)
    assert scores.scores.questions.tolist() == [2, 1]
    assert all(isinstance(values, np.ndarray) for values in scores.scores)


def test_questions_that_are_too_long_are_named(tokenizer, ours):
    long = [*QUESTIONS, Question("c", ("d", "e" * 99), 0, "eng")]
    with pytest.raises(ValueError, match=r"got:\n  eng question 4 option 2: 101 tokens$"):
        question_tokens(long, tokenizer, ours.config)
