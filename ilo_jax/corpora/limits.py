"""What token ids a model takes, and sentences refused that it does not."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ilo_jax.corpora.packing import Sentences
from ilo_jax.refusals import refuse


class Limits(NamedTuple):
    """What token ids a model takes."""

    positions: int | None
    """The longest sentence, in tokens; None where nothing bounds it."""
    vocab: int
    """How many embeddings it has: every id is below."""
    padding: int | None = None
    """An id that no sentence may have: that of the padding token where positions are counted from
    it. None: there is none."""


def refuse_unfit(
    sentences: Sentences,
    limits: Limits,
    *,
    name: Callable[[int], str] = lambda index: f"sentence {index + 1}",
    advice: str = "shorten them or leave them out",
) -> None:
    """Refuse sentences that are not for a model.

    Args:
        sentences: With what is given before them.
        limits: What the model takes.
        name: What messages call the sentence of an index.
        advice: What messages say is to be done about such sentences.

    Raises:
        ValueError: Naming the sentences with more tokens than positions or none, those with
            a padding token, or a token id that the model has no embedding for.
    """
    most = limits.positions or math.inf
    lengths = enumerate(sentences.lengths.tolist())
    problems = [f"{name(i)}: {length} tokens" for i, length in lengths if not 1 <= length <= most]
    what = f"a sentence must have 1 to {most} tokens, the positions of the model; {advice}; got:"
    refuse(what, problems)
    highest = sentences.tokens.max(initial=0)
    if highest >= limits.vocab:
        raise ValueError(
            f"the tokenizer gives token id {highest}, but the model has embeddings for ids below "
            f"{limits.vocab}: the tokenizer is not this model's"
        )
    padded = [name(i) for i in _having(sentences, limits.padding)]
    what = f"a sentence must not have the padding token, id {limits.padding}, from which this "
    refuse(f"{what}model counts positions; {advice}; got:", padded)


def _having(sentences: Sentences, token: int | None) -> list[int]:
    """Indices of the sentences that have a token."""
    places = np.flatnonzero(sentences.tokens == (-1 if token is None else token))
    ends = np.cumsum(sentences.lengths)
    return np.unique(np.searchsorted(ends, places, side="right")).tolist()
