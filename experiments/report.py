"""What a run of ILO leaves: a table, a tidy CSV and a picture."""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ilo_jax.corpora.languages import by_family, find
from ilo_jax.files import write_beside, write_text
from ilo_jax.metrics import ReferencedScores

COLUMNS = ("bridge", "reach", "ilo", "ceiling", "gaussian", "uncertain")
"""Fields of `ReferencedScores` that a table shows."""


def write_csv(
    file: Path, scores: ReferencedScores, *, model: str, languages: Sequence[str]
) -> None:
    """Write one row per hidden state and language."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "state", "language", *COLUMNS])
    for state, lang in np.ndindex(scores.ilo.shape):
        values = [getattr(scores, name)[state, lang] for name in COLUMNS]
        writer.writerow([model, state, languages[lang], *(f"{v:.6g}" for v in values)])
    write_text(file, text.getvalue())


def _cell(value: float) -> str:
    return f"{value:.2f}".removeprefix("0").rjust(4)


def _row(name: str, values: Float[np.ndarray, " state"]) -> str:
    return f"{name:9}" + "".join(f" {_cell(v)}" for v in values)


def table(scores: ReferencedScores, *, languages: Sequence[str]) -> str:
    """Return ILO as text: languages by hidden states, then the mean and its references."""
    states = range(len(scores.ilo))
    lines = ["state    " + "".join(f" {s:4}" for s in states)]
    order = by_family(languages)
    lines += [_row(code, scores.ilo[:, languages.index(code)]) for code in order]
    for name, values in (("mean", "ilo"), ("ceiling", "ceiling"), ("gaussian", "gaussian")):
        lines.append(_row(name, np.nanmean(getattr(scores, values), axis=1)))
    return "\n".join(lines)


def _branch(code: str) -> str:
    language = find(code)
    return "other" if language is None else language.branch or language.family


def picture(file: Path, scores: ReferencedScores, *, title: str, languages: Sequence[str]) -> None:
    """Draw languages by hidden states, families together, and the mean with its references."""
    from matplotlib.figure import Figure

    order = by_family(languages)
    names = [f"{language.name if (language := find(code)) else code}" for code in order]
    branches = [_branch(code) for code in order]
    edges = [i for i in range(1, len(order)) if branches[i] != branches[i - 1]]
    states = len(scores.ilo)

    figure = Figure(figsize=(max(7, 2.6 + 0.27 * states), 3.4 + 0.2 * len(order)), dpi=110)
    heat, curve = figure.subplots(
        2, 1, sharex=True, height_ratios=[0.2 * len(order), 2], gridspec_kw={"hspace": 0.06}
    )
    image = heat.imshow(
        scores.ilo[:, [languages.index(code) for code in order]].T,
        aspect="auto",
        vmin=0,
        vmax=1,
        cmap="viridis",
        interpolation="nearest",
    )
    heat.set_yticks(range(len(order)), names, fontsize=8)
    heat.set_title(title, fontsize=10)
    for edge in edges:
        heat.axhline(edge - 0.5, color="white", linewidth=1.2)
    bounds = [0, *edges, len(order)]
    for start, stop in itertools.pairwise(bounds):
        middle = (start + stop - 1) / 2
        heat.text(states - 0.3, middle, branches[start], fontsize=8, va="center", color="dimgray")
    curve.plot(np.nanmean(scores.ceiling, 1), ":", color="gray", label="ceiling (labels shuffled)")
    curve.plot(np.nanmean(scores.ilo, 1), "o-", ms=3, label="ILO, mean of languages")
    curve.plot(np.nanmean(scores.gaussian, 1), "--", color="tab:red", label="Gaussian null")
    curve.set(ylim=(-0.03, 1.05), xlabel="hidden state (0: embedding)", ylabel="ILO")
    curve.set_xticks(range(0, states, 1 if states < 20 else 2))
    curve.legend(fontsize=8, frameon=False, loc="best")
    figure.colorbar(image, ax=heat, location="top", shrink=0.4, pad=0.05, label="ILO")
    write_beside(file, lambda beside: figure.savefig(beside, format="png", bbox_inches="tight"))
