"""ILO for people: languages by hidden states, beside its references."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from experiments import pictures, tables
from ilo_jax.corpora.languages import by_family, find
from ilo_jax.metrics import ReferencedScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def table(scores: ReferencedScores, *, languages: Sequence[str], sentences: int) -> str:
    """ILO as text: languages by hidden states, then the mean and its references.

    A last row gives the share of uncertain points, where ties or rounding decide the scores of a
    state.

    Args:
        scores: "state lang".
        languages: In the order of the scores.
        sentences: Number of points of each language.
    """
    states = range(len(scores.ilo))
    lines = ["state    " + "".join(f" {s:4}" for s in states)]
    order = by_family(languages)
    lines += [_row(code, scores.ilo[:, languages.index(code)]) for code in order]
    for name, values in (("mean", "ilo"), ("ceiling", "ceiling"), ("gaussian", "gaussian")):
        lines.append(_row(name, np.nanmean(getattr(scores, values), axis=1)))
    if shares := tables.open_shares(scores.uncertain, sentences=sentences):
        cells = (_cell(shares[s]) if s in shares else " " * 4 for s in states)
        lines.append("uncertain" + "".join(f" {cell}" for cell in cells))
    return "\n".join(lines)


def _row(name: str, values: Float[np.ndarray, " state"]) -> str:
    return f"{name:9}" + "".join(f" {_cell(v)}" for v in values)


def _cell(value: float) -> str:
    return f"{value:.2f}".removeprefix("0").rjust(4)


def picture(scores: ReferencedScores, *, title: str, languages: Sequence[str]) -> "Figure":
    """Draw languages by hidden states, families together, and the mean with its references."""
    states, order = len(scores.ilo), by_family(languages)
    tall = 0.2 * len(order)
    figure = pictures.figure(max(7, 2.6 + 0.27 * states), 3.4 + tall)
    heat, curve = figure.subplots(2, 1, sharex=True, height_ratios=[tall, 2])
    shown = scores.ilo[:, [languages.index(code) for code in order]].T
    image = heat.imshow(
        shown, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest"
    )
    pictures.label(heat, title=title, legend=False)
    _name(heat, order, states)
    figure.colorbar(image, ax=heat, location="top", shrink=0.4, pad=0.05, label="ILO")
    _draw_means(curve, scores)
    pictures.label(curve)
    return figure


def _name(axes: "Axes", order: Sequence[str], states: int) -> None:
    """Name languages at the left, their families at the right, with a line between families."""
    names = [language.name if (language := find(code)) else code for code in order]
    axes.set_yticks(range(len(order)), names)
    branches = [_branch(code) for code in order]
    edges = [i for i in range(1, len(order)) if branches[i] != branches[i - 1]]
    for edge in edges:
        axes.axhline(edge - 0.5, color="white", linewidth=1.2)
    for start, stop in itertools.pairwise([0, *edges, len(order)]):
        place = states - 0.3, (start + stop - 1) / 2
        axes.text(*place, branches[start], fontsize=pictures.SMALL, va="center", color="dimgray")


def _branch(code: str) -> str:
    language = find(code)
    return "other" if language is None else language.branch or language.family


def _draw_means(axes: "Axes", scores: ReferencedScores) -> None:
    """Draw the mean of the languages at every hidden state, between its references."""
    mean = {name: np.nanmean(values, axis=1) for name, values in scores._asdict().items()}
    axes.plot(mean["ceiling"], ":", color="gray", label="ceiling (labels shuffled)")
    axes.plot(mean["ilo"], **pictures.MEASURED, label="ILO, mean of languages")
    axes.plot(mean["gaussian"], **pictures.CHANCE, color="tab:red", label="Gaussian null")
    axes.set(ylim=(-0.03, 1.05), xlabel="hidden state (0: embedding)", ylabel="ILO")
    states = len(scores.ilo)
    axes.set_xticks(range(0, states, 1 if states < 20 else 2))
