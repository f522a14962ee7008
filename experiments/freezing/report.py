"""What a comparison of trainings leaves: tables, tidy CSVs and two pictures."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import pictures, tables
from ilo_jax.corpora.languages import by_family
from ilo_jax.evaluation.held_out import Judgement, TextScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = "arm seed language trained bits_per_byte change loss tokens".split()
ARMS = {"base": "as it is", "full": "full fine-tuning", "frozen": "early layers frozen"}
COLORS = {"base": "dimgray", "full": "tab:red", "frozen": "tab:blue"}


class Judged(NamedTuple):
    """What was found of one model."""

    arm: str
    """One of `ARMS`."""
    seed: int
    found: Judgement


def of_arm(judged: Sequence[Judged], arm: str, quantity: str) -> Float[np.ndarray, "seed ..."]:
    """A quantity of all models of an arm: "bits_per_byte", or one of the scores."""
    found = [one.found for one in judged if one.arm == arm]
    if quantity in TextScores._fields:
        return np.stack([getattr(each.texts, quantity) for each in found])
    return np.stack([getattr(each.scores, quantity) for each in found])


def table(
    judged: Sequence[Judged], languages: Sequence[str], *, trained: str, sentences: int
) -> str:
    """What happened to the languages and to the space, for people.

    Where ties or rounding decide the scores of a state, the share of uncertain points stands beside
    them.

    Args:
        judged: All models.
        languages: In the order of the scores.
        trained: The language that was learnt; "" for none of them.
        sentences: Number of points of each language.
    """
    arms = [arm for arm in ARMS if any(one.arm == arm for one in judged)]
    bits = {arm: of_arm(judged, arm, "bits_per_byte").mean(axis=0) for arm in arms}
    lines = [("bits per byte", *(ARMS[arm] for arm in arms))]
    for code in by_family(languages):
        mark = " (trained)" if code == trained else ""
        lines.append((code + mark, *(f"{bits[arm][languages.index(code)]:.3f}" for arm in arms)))
    others = [i for i, code in enumerate(languages) if code != trained]
    lines.append(("mean of the others", *(f"{bits[arm][others].mean():.3f}" for arm in arms)))
    lines.append(("", *([""] * len(arms))))
    lines.append(("ILO, mean of languages", *([""] * len(arms))))
    ilo = {arm: np.nanmean(of_arm(judged, arm, "ilo"), axis=(0, 2)) for arm in arms}
    null = {arm: np.nanmean(of_arm(judged, arm, "gaussian"), axis=(0, 2)) for arm in arms}
    uncertain = {arm: of_arm(judged, arm, "uncertain").mean(axis=0) for arm in arms}
    shares = {arm: tables.open_shares(uncertain[arm], sentences=sentences) for arm in arms}
    for state in range(len(ilo["base"])):
        cells = (
            f"{ilo[arm][state]:.3f} (null {null[arm][state]:.3f}{_mark(shares[arm].get(state))})"
            for arm in arms
        )
        lines.append((f"state {state}", *cells))
    cells = (f"{ilo[arm].mean():.3f} (null {null[arm].mean():.3f})" for arm in arms)
    lines.append(("mean of states", *cells))
    return tables.columns(lines)


def _mark(share: float | None) -> str:
    return "" if share is None else f", {share:.0%} uncertain"


def write(
    workdir: Path, judged: Sequence[Judged], languages: Sequence[str], *, trained: str
) -> None:
    """Leave the CSVs in a run folder."""
    tables.write(workdir / "bits.csv", BITS, _bits(judged, languages, trained))
    rows = (
        {"arm": one.arm, "seed": one.seed} | row
        for one in judged
        for row in tables.tidy(one.found.scores._asdict(), languages)
    )
    tables.write(workdir / "ilo.csv", ("arm", "seed", *tables.INTERLINGUA), rows)


def draw(
    workdir: Path, judged: Sequence[Judged], languages: Sequence[str], *, trained: str, title: str
) -> None:
    """Leave the pictures in a run folder."""
    pictures.write(workdir / "ilo.png", partial(picture_of_ilo, judged, title=title))
    of_bits = partial(picture_of_bits, judged, languages, trained=trained, title=title)
    pictures.write(workdir / "bits.png", of_bits)


def _bits(
    judged: Sequence[Judged], languages: Sequence[str], trained: str
) -> Iterator[dict[str, Any]]:
    """Yield a row for every model and language."""
    base = of_arm(judged, "base", "bits_per_byte")[0]
    for one in judged:
        for i, code in enumerate(languages):
            texts = {name: values[i] for name, values in one.found.texts._asdict().items()}
            change = {"trained": int(code == trained), "change": texts["bits_per_byte"] - base[i]}
            yield {"arm": one.arm, "seed": one.seed, "language": code} | texts | change


def picture_of_ilo(judged: Sequence[Judged], *, title: str) -> "Figure":
    """Draw the mean ILO of the languages at every hidden state, seeds as a band."""
    figure = pictures.figure(8, 4.5)
    axes = figure.subplots()
    for arm, name in ARMS.items():
        curves = np.nanmean(of_arm(judged, arm, "ilo"), axis=2)
        null = np.nanmean(of_arm(judged, arm, "gaussian"), axis=(0, 2))
        states = np.arange(curves.shape[1])
        color = COLORS[arm]
        mean = curves.mean(axis=0)
        axes.plot(states, mean, **pictures.MEASURED, color=color, label=f"ILO, {name}")
        axes.fill_between(
            states, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2, lw=0
        )
        axes.plot(states, null, **pictures.CHANCE, color=color, label="Gaussian null of it")
    axes.set(xlabel="hidden state (0: embedding)", ylabel="ILO, mean of languages", ylim=(0, None))
    pictures.label(axes, title=title)
    return figure


def picture_of_bits(
    judged: Sequence[Judged], languages: Sequence[str], *, trained: str, title: str
) -> "Figure":
    """Draw the change in bits per byte of every language, seeds as dots."""
    order = by_family(languages)
    at = np.array([languages.index(code) for code in order])
    base = of_arm(judged, "base", "bits_per_byte")[0][at]
    figure = pictures.figure(8, 1.5 + 0.35 * len(order))
    axes = figure.subplots()
    places = np.arange(len(order))[::-1]
    for shift, arm in ((0.2, "full"), (-0.2, "frozen")):
        changes = of_arm(judged, arm, "bits_per_byte")[:, at] - base
        color = COLORS[arm]
        axes.barh(
            places + shift, changes.mean(axis=0), 0.36, color=color, alpha=0.6, label=ARMS[arm]
        )
        for seed in changes:
            axes.plot(seed, places + shift, ".", color=color, ms=4)
    axes.axvline(0, color="black", lw=0.8)
    names = [f"{code} (trained)" if code == trained else code for code in order]
    axes.set_yticks(places, names)
    for label, code in zip(axes.get_yticklabels(), order, strict=True):
        label.set_fontweight("bold" if code == trained else "normal")
    axes.set(xlabel="change in bits per byte (left of 0: better)")
    pictures.label(axes, title=title)
    return figure
