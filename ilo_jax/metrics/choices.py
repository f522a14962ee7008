"""How often a model finds the right one of several options the most likely."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class ChoiceScores(NamedTuple):
    """Shares in [0, 1]; NaN for a language without questions."""

    accuracy: Float[Array, " lang"]
    """Share of the questions whose right option has the highest log-likelihood."""
    normalized: Float[Array, " lang"]
    """The same by log-likelihood divided by the length of the option."""
    chance: Float[Array, " lang"]
    """What guessing would get: the mean of 1 / number of options."""
    questions: Int[Array, " lang"]
    """How many there are."""


@partial(jax.jit, static_argnames="num_languages")
def choices(
    log_likelihoods: Float[Array, "question option"],
    lengths: Int[Array, "question option"],
    answers: Int[Array, " question"],
    languages: Int[Array, " question"],
    *,
    num_languages: int,
) -> ChoiceScores:
    """Accuracy on multiple choice questions, by language.

    With lengths in characters these are `acc` and `acc_norm` of lm-evaluation-harness. Of options
    that tie the first is chosen, as by argmax there. A log-likelihood of NaN makes the scores
    of its language NaN, too.

    Args:
        log_likelihoods: Of each option given its question; options are filled from the left.
        lengths: Of each option, in characters; 0 where a question has no such option.
        answers: Which option is right, from 0.
        languages: Of each question, in [0, num_languages); one of any other label counts nowhere.
        num_languages: Number of languages.
    """
    there = lengths > 0
    by_language = partial(_means, languages=languages, num_languages=num_languages)
    options = jnp.sum(there, axis=1)
    return ChoiceScores(
        accuracy=by_language(_right(log_likelihoods, there, answers)),
        normalized=by_language(_right(log_likelihoods / jnp.maximum(lengths, 1), there, answers)),
        chance=by_language(1 / options),
        questions=jnp.sum(_members(languages, num_languages), axis=0),
    )


def _right(
    values: Float[Array, "question option"],
    there: Bool[Array, "question option"],
    answers: Int[Array, " question"],
) -> Float[Array, " question"]:
    """1 where the highest of the values that are there is the answer's, else 0; NaN among NaN."""
    chosen = jnp.argmax(jnp.where(there, values, -jnp.inf), axis=1)
    unknown = jnp.any(there & jnp.isnan(values), axis=1)
    return jnp.where(unknown, jnp.nan, chosen == answers)


def _means(
    values: Float[Array, " question"], languages: Int[Array, " question"], num_languages: int
) -> Float[Array, " lang"]:
    members = _members(languages, num_languages)
    # Not a product, which would carry one language's NaN to all.
    return jnp.sum(jnp.where(members, values[:, None], 0), axis=0) / jnp.sum(members, axis=0)


def _members(
    languages: Int[Array, " question"], num_languages: int
) -> Bool[Array, "question lang"]:
    return languages[:, None] == jnp.arange(num_languages)[None]
