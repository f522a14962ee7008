"""What a series leaves for people, against the numbers that went in."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.series.references import Reference
from experiments.series.report import Point, picture, retrieved, table
from ilo_jax.evaluation.held_out import Judgement, TextScores
from ilo_jax.metrics import ReferencedScores

LANGUAGES = ["deu_Latn", "swe_Latn"]


def point(step: int) -> Point:
    rng = np.random.default_rng(step)
    bits = rng.uniform(1, 8, 2)
    scores = ReferencedScores(*rng.uniform(0, 1, (5, 3, 2)), *np.zeros((3, 3, 2), int))
    pairs = rng.uniform(0, 1, (3, 2, 2))
    pairs[:, [0, 1], [0, 1]] = np.nan
    return Point(step, Judgement(TextScores(bits, bits, np.ones(2, int)), scores, pairs))


@pytest.fixture
def points() -> list[Point]:
    return [point(step) for step in (0, 1, 1024)]


def test_the_table_has_each_checkpoint_at_its_best_state(points):
    known = {"deu_Latn": Reference(3.0, 2.0), "swe_Latn": Reference(4.0, 1.0)}
    lines = [line.split() for line in table(points, known).splitlines()]
    for line, (step, found) in zip(lines[1:4], points, strict=True):
        ilo = found.scores.ilo.mean(axis=1)
        null = found.scores.gaussian.mean(axis=1)[ilo.argmax()]
        pairs = np.nanmean(found.retrieved, axis=(1, 2))
        assert line == [
            *(str(step), f"{found.texts.bits_per_byte.mean():.3f}"),
            *(f"{ilo.max():.3f}", f"({null:.3f})", str(ilo.argmax())),
            *(f"{pairs.max():.3f}", str(pairs.argmax())),
        ]
    assert lines[4:] == [["xz", "3.500"], ["byte", "5-grams", "1.500"]]
    assert len(table(points, {}).splitlines()) == 4


def curves(figure: Figure) -> list[dict[str, np.ndarray]]:
    return [
        {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}
        for axes in figure.axes
    ]


def test_the_picture_shows_all_states_and_what_chance_gives(points):
    known = {"deu_Latn": Reference(3.0, 2.0)}
    drawn = picture(points, known, LANGUAGES, title="a series", sentences=50)
    bits, ilo, retrieval = curves(drawn)
    mean = [one.found.texts.bits_per_byte.mean() for one in points]
    np.testing.assert_allclose(bits["mean of 2 languages"], mean)
    assert bits["xz"][0] == 3.0
    assert bits["byte 5-grams"][0] == 2.0
    for state in range(3):
        wanted = [one.found.scores.ilo[state].mean() for one in points]
        np.testing.assert_allclose(ilo[f"state {state}"], wanted)
        wanted = [retrieved(one.found)[state] for one in points]
        np.testing.assert_allclose(retrieval[f"state {state}"], wanted)
    null = [one.found.scores.gaussian.mean() for one in points]
    np.testing.assert_allclose(ilo["Gaussian null"], null)
    assert retrieval["chance"][0] == 1 / 50
    ticks = [label.get_text() for label in drawn.axes[2].get_xticklabels()]
    assert ticks == ["0", "1", "1024"]
    assert "xz" not in curves(picture(points, {}, LANGUAGES, title="", sentences=2))[0]
