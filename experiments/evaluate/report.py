"""What an evaluation shows of everything that it measures: a table, for people and for a file."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import tables
from ilo_jax.corpora.languages import by_family
from ilo_jax.evaluation.answers import AnswerScores
from ilo_jax.evaluation.held_out import TextScores
from ilo_jax.metrics import ChoiceScores

FILES = {"texts": "evaluation.csv", "answers": "choices.csv", "retrieved": "retrieval.csv"}
"""Names of the files, by what is measured."""


class Table(NamedTuple):
    """The same twice: for people, and for a file."""

    text: str
    header: tuple[str, ...]
    rows: list[tables.Row]


def tabled(name: str, scores: Any, languages: Sequence[str]) -> Table:
    """What is shown of something that was measured.

    Args:
        name: Which of `FILES`.
        scores: What was measured.
        languages: Of the corpus.
    """
    if name == "texts":
        return _of_texts(scores, languages)
    return _of_answers(scores) if name == "answers" else _of_retrieval(scores, languages)


def _of_texts(scores: TextScores, languages: Sequence[str]) -> Table:
    header = ("language", "bits_per_byte", "loss_per_token", "tokens")
    return _by_language(header, zip(languages, *scores, strict=True))


def _of_answers(answers: AnswerScores) -> Table:
    header = ("language", *ChoiceScores._fields)
    return _by_language(header, zip(answers.languages, *answers.scores, strict=True))


def _by_language(header: tuple[str, ...], lines: Iterable[tuple[Any, ...]]) -> Table:
    """Lines as a table; for people, families together, and the mean of all but the last."""
    found = {line[0]: line for line in lines}
    shown = [found[code] for code in by_family(found)]
    means = np.mean([line[1:-1] for line in shown], axis=0)
    shown.append(("mean", *means, ""))
    text = tables.columns([header, *(_cells(line) for line in shown)])
    return Table(text, header, [dict(zip(header, line, strict=True)) for line in found.values()])


def _cells(line: Iterable[Any]) -> list[str]:
    return [f"{value:.3f}" if isinstance(value, np.floating) else str(value) for value in line]


def _of_retrieval(
    retrieved: Float[np.ndarray, "state lang lang"], languages: Sequence[str]
) -> Table:
    """One row per state and language; for people, the mean over all pairs at each state."""
    means = {"finding": np.nanmean(retrieved, axis=2), "found": np.nanmean(retrieved, axis=1)}
    lines = [(str(state), f"{m:.3f}") for state, m in enumerate(means["finding"].mean(axis=1))]
    header = ("state", "language", *means)
    text = tables.columns([("state", "retrieval"), *lines])
    return Table(text, header, list(tables.tidy(means, languages)))
