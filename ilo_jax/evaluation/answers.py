"""How a model answers multiple choice questions, by the likelihood of each option."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ilo_jax.corpora.choices import DELIMITER, Question, by_language
from ilo_jax.corpora.continuations import continuations
from ilo_jax.corpora.limits import refuse_unfit
from ilo_jax.corpora.packing import Sentences
from ilo_jax.metrics import ChoiceScores, choices
from ilo_jax.models.config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerScores(NamedTuple):
    """How a model answers the questions of each language."""

    languages: tuple[str, ...]
    """Codes of the languages that have questions."""
    scores: ChoiceScores
    """Shares of right answers in these languages, on the host."""


def question_tokens(
    questions: Sequence[Question], tokenizer: "PreTrainedTokenizerBase", config: ModelConfig
) -> Sentences:
    """The tokens of every question with each of its options, of which the options count.

    Args:
        questions: With their options, one after the other in what is returned.
        tokenizer: Of the model.
        config: Of the model.

    Raises:
        ValueError: Naming the questions that are too long for the model, or options without
            tokens.
    """
    names = [
        f"{question.language} question {number} option {option}"
        for number, question in enumerate(questions, 1)
        for option in range(1, len(question.options) + 1)
    ]
    contexts = [question.context for question in questions for _ in question.options]
    options = [DELIMITER + option for question in questions for option in question.options]
    tokens = continuations(contexts, options, tokenizer, name=names.__getitem__)
    refuse_unfit(tokens, config.limits, name=names.__getitem__)
    return tokens


def answer_scores(
    log_likelihoods: Float[np.ndarray, " option"], questions: Sequence[Question]
) -> AnswerScores:
    """How often the right option is the likeliest, in each language that has questions.

    Args:
        log_likelihoods: Of the options of all questions, by `question_tokens`, in nats.
        questions: The same questions.
    """
    languages = tuple(by_language(questions))
    counts = np.array([len(question.options) for question in questions])
    present = np.arange(counts.max())[None] < counts[:, None]
    likelihoods, lengths = np.zeros(present.shape, np.float32), np.zeros(present.shape, np.int32)
    likelihoods[present] = log_likelihoods
    lengths[present] = [len(option) for question in questions for option in question.options]
    scores = choices(
        jnp.asarray(likelihoods),
        jnp.asarray(lengths),
        jnp.array([question.answer for question in questions]),
        jnp.array([languages.index(question.language) for question in questions]),
        num_languages=len(languages),
    )
    return AnswerScores(languages, jax.tree.map(np.asarray, scores))
