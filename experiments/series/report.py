"""What a series leaves: tidy CSVs, a table, and one picture of all its checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import pictures, tables
from experiments.series.references import Reference
from ilo_jax.evaluation.held_out import Judgement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BITS = ("step", "language", "bits_per_byte", "loss", "tokens")
RETRIEVAL = ("step", "state", "language", "finding", "found")


class Point(NamedTuple):
    """A checkpoint, judged."""

    step: int
    found: Judgement


def write(
    workdir: Path,
    points: Sequence[Point],
    known: Mapping[str, Reference],
    languages: Sequence[str],
) -> None:
    """Leave the CSVs in a run folder."""
    tables.write(workdir / "bits.csv", BITS, _bits(points, languages))
    rows = (
        {"step": point.step} | row
        for point in points
        for row in tables.tidy(point.found.scores._asdict(), languages)
    )
    tables.write(workdir / "ilo.csv", ("step", *tables.INTERLINGUA), rows)
    tables.write(workdir / "retrieval.csv", RETRIEVAL, _retrieval(points, languages))
    of = ({"language": language} | each._asdict() for language, each in known.items())
    tables.write(workdir / "references.csv", ("language", *Reference._fields), of)


def _bits(points: Sequence[Point], languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every checkpoint and language."""
    for step, found in points:
        for place, language in enumerate(languages):
            values = {name: array[place] for name, array in found.texts._asdict().items()}
            yield {"step": step, "language": language} | values


def _retrieval(points: Sequence[Point], languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every checkpoint, state and language."""
    for step, found in points:
        ways = {"finding": np.nanmean(found.retrieved, axis=2)}
        ways |= {"found": np.nanmean(found.retrieved, axis=1)}
        yield from ({"step": step} | row for row in tables.tidy(ways, languages))


def table(points: Sequence[Point], known: Mapping[str, Reference]) -> str:
    """All checkpoints for people: means of the languages, each at the state that has most."""
    lines = [("step", "bits per byte", "ILO (its null)", "at state", "retrieval", "at state")]
    for step, found in points:
        ilo, null = (np.nanmean(x, axis=1) for x in (found.scores.ilo, found.scores.gaussian))
        best, pairs = ilo.argmax(), retrieved(found)
        lines.append((
            str(step),
            f"{found.texts.bits_per_byte.mean():.3f}",
            f"{ilo[best]:.3f} ({null[best]:.3f})",
            str(best),
            f"{pairs.max():.3f}",
            str(pairs.argmax()),
        ))
    lines += [(name, f"{mean:.3f}", "", "", "", "") for name, (mean, _) in _means(known).items()]
    return tables.columns(lines)


def _means(known: Mapping[str, Reference]) -> dict[str, tuple[float, str]]:
    """The mean of each reference, with a colour, by its name for people; empty without any."""
    names = {"xz": ("xz", "tab:red"), "ngram": ("byte 5-grams", "tab:blue")}
    means: list[float] = np.mean(list(known.values()), axis=0).tolist() if known else []
    pairs = zip(means, Reference._fields, strict=bool(known))
    return {names[field][0]: (mean, names[field][1]) for mean, field in pairs}


def retrieved(found: Judgement) -> Float[np.ndarray, " state"]:
    """How often translations are found at every hidden state, the mean over pairs of languages."""
    return np.nanmean(found.retrieved, axis=(1, 2))


def draw(
    workdir: Path,
    points: Sequence[Point],
    known: Mapping[str, Reference],
    languages: Sequence[str],
    *,
    title: str,
    sentences: int,
) -> None:
    """Leave the picture in a run folder."""
    of = partial(picture, points, known, languages, title=title, sentences=sentences)
    pictures.write(workdir / "series.png", of)


def picture(
    points: Sequence[Point],
    known: Mapping[str, Reference],
    languages: Sequence[str],
    *,
    title: str,
    sentences: int,
) -> "Figure":
    """Draw bits per byte, ILO and retrieval against the step of training.

    Args:
        points: All checkpoints, by step.
        known: References of bits per byte, by language; may be empty.
        languages: In the order of the scores.
        title: Of the picture.
        sentences: Of each language: chance finds one of them.
    """
    figure = pictures.figure(8, 10)
    bits, ilo, retrieval = figure.subplots(3, 1, sharex=True)
    places = np.arange(len(points))
    _draw_bits(bits, points, known, languages)
    scores = np.stack([np.nanmean(point.found.scores.ilo, axis=1) for point in points])
    null = np.stack([np.nanmean(point.found.scores.gaussian, axis=1) for point in points])
    _draw_states(ilo, scores)
    ilo.plot(places, null.mean(axis=1), **pictures.CHANCE, color="tab:red", label="Gaussian null")
    ilo.set(ylabel="ILO, mean of languages", ylim=(-0.03, 1.05))
    pictures.label(ilo)
    _draw_states(retrieval, np.stack([retrieved(point.found) for point in points]))
    retrieval.axhline(1 / sentences, **pictures.CHANCE, color="tab:red", label="chance")
    retrieval.set(ylabel="translations found, mean of pairs", ylim=(-0.03, 1.05))
    retrieval.set_xticks(places, [str(point.step) for point in points])
    retrieval.set_xlabel("step of training")
    pictures.label(retrieval)
    pictures.label(bits, title=title)
    return figure


def _draw_bits(
    axes: "Axes",
    points: Sequence[Point],
    known: Mapping[str, Reference],
    languages: Sequence[str],
) -> None:
    """Draw what every language's text costs, thin, and their mean; dashed, what it costs others."""
    found = np.stack([point.found.texts.bits_per_byte for point in points])
    for values in found.T:
        axes.plot(values, color="gray", linewidth=0.6)
    name = f"mean of {len(languages)} languages"
    axes.plot(found.mean(axis=1), **pictures.MEASURED, color="black", label=name)
    for label, (mean, color) in _means(known).items():
        axes.axhline(mean, **pictures.CHANCE, color=color, label=label)
    axes.set(ylabel="bits per byte", ylim=(0, None))


def _draw_states(axes: "Axes", values: Float[np.ndarray, "point state"]) -> None:
    """Draw a line for every hidden state, dark the first, light the last."""
    import matplotlib as mpl

    states = values.shape[1]
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, states))
    for state, color in enumerate(colors):
        axes.plot(values[:, state], **pictures.MEASURED, color=color, label=f"state {state}")
