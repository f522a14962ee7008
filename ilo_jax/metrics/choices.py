"""How often a model finds the right one of several options the most likely."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.metrics.arguments import (
    array_errors,
    integer_errors,
    label_errors,
    length_errors,
    refuse,
)
from ilo_jax.metrics.numerics import own_numerics


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


@own_numerics()
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
        languages: Of each question, in [0, num_languages); one of -1, or where labels are traced of
            any other label, counts nowhere.
        num_languages: Number of languages.

    Raises:
        ValueError: If these are not arrays of floats and integers of as many questions and options,
            or if a known answer or label is out of range.
    """
    refuse(_shape_errors(log_likelihoods, lengths, answers, languages))
    errors = integer_errors({"num_languages": num_languages}, least=1)
    if not errors:
        errors += label_errors("languages", languages, below=num_languages, what="language")
    refuse(errors + label_errors("answers", answers, below=lengths.shape[1], what="option"))
    return _choices(log_likelihoods, lengths, answers, languages, num_languages=num_languages)


def _shape_errors(log_likelihoods: Any, lengths: Any, answers: Any, languages: Any) -> list[str]:
    """What makes these no log-likelihoods of the options of the same questions."""
    errors = array_errors("log_likelihoods", log_likelihoods, axes="question option", of="floats")
    errors += array_errors("lengths", lengths, axes="question option", of="integers")
    errors += array_errors("answers", answers, axes="question", of="integers")
    errors += array_errors("languages", languages, axes="question", of="integers")
    if errors:
        return errors
    questions, options = log_likelihoods.shape
    given = {"lengths": lengths, "answers": answers, "languages": languages}
    counts = {name: len(array) for name, array in given.items()}
    errors = length_errors(counts, expected=questions, of="questions")
    width = {"lengths of a question": lengths.shape[1]}
    return errors + length_errors(width, expected=options, of="options")


@partial(jax.jit, static_argnames="num_languages")
def _choices(
    log_likelihoods: Float[Array, "question option"],
    lengths: Int[Array, "question option"],
    answers: Int[Array, " question"],
    languages: Int[Array, " question"],
    *,
    num_languages: int,
) -> ChoiceScores:
    # All of the same types, whatever the caller's are.
    log_likelihoods = log_likelihoods.astype(jnp.float32)
    lengths, answers, languages = (x.astype(jnp.int32) for x in (lengths, answers, languages))
    there = lengths > 0
    by_language = partial(_means, languages=languages, num_languages=num_languages)
    options = jnp.sum(there, axis=1, dtype=jnp.int32).astype(jnp.float32)
    per_character = log_likelihoods / jnp.maximum(lengths, 1).astype(jnp.float32)
    return ChoiceScores(
        accuracy=by_language(_right(log_likelihoods, there, answers)),
        normalized=by_language(_right(per_character, there, answers)),
        chance=by_language(1 / options),
        questions=jnp.sum(_members(languages, num_languages), axis=0, dtype=jnp.int32),
    )


def _right(
    values: Float[Array, "question option"],
    there: Bool[Array, "question option"],
    answers: Int[Array, " question"],
) -> Float[Array, " question"]:
    """1 where the highest of the values that are there is the answer's, else 0; NaN among NaN."""
    chosen = lax.argmax(jnp.where(there, values, -jnp.inf), 1, jnp.int32)
    unknown = jnp.any(there & jnp.isnan(values), axis=1)
    return jnp.where(unknown, jnp.nan, (chosen == answers).astype(jnp.float32))


def _means(
    values: Float[Array, " question"], languages: Int[Array, " question"], num_languages: int
) -> Float[Array, " lang"]:
    members = _members(languages, num_languages)
    # Not a product, which would carry one language's NaN to all.
    number = jnp.sum(members, axis=0, dtype=jnp.int32).astype(jnp.float32)
    return jnp.sum(jnp.where(members, values[:, None], 0.0), axis=0) / number


def _members(
    languages: Int[Array, " question"], num_languages: int
) -> Bool[Array, "question lang"]:
    return languages[:, None] == jnp.arange(num_languages, dtype=jnp.int32)[None]
