import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments import pictures, tables
from experiments.ilo import report
from ilo_jax.metrics import ReferencedScores

COLUMNS = ("bridge", "reach", "ilo", "ceiling", "gaussian", "uncertain")
LANGUAGES = ["swe_Latn", "xyz_Latn", "dan_Latn"]
FLAT = np.array([[0.25, 1.0, 0.5], [0.0, np.nan, 0.125]])
COUNTS = np.arange(6).reshape(2, 3)
SCORES = ReferencedScores(FLAT, FLAT / 2, FLAT / 4, FLAT, FLAT, COUNTS, 0 * COUNTS, COUNTS)


def test_csv_is_tidy(tmp_path: Path):
    header = ("model", *tables.INTERLINGUA)
    found = ({"model": "m"} | row for row in tables.tidy(SCORES._asdict(), LANGUAGES))
    tables.write(tmp_path / "scores.csv", header, found)
    with (tmp_path / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["model", "state", "language", *COLUMNS]
    assert [(row["state"], row["language"]) for row in rows] == [
        (str(state), language) for state in range(2) for language in LANGUAGES
    ]
    assert {row["model"] for row in rows} == {"m"}
    for column in COLUMNS:
        values = getattr(SCORES, column)
        np.testing.assert_allclose([float(row[column]) for row in rows], values.ravel())


def test_table_has_every_language_then_mean_and_references():
    lines = report.table(SCORES, languages=LANGUAGES, sentences=2000).splitlines()
    assert [line.split()[0] for line in lines] == [
        "state",
        "dan_Latn",
        "swe_Latn",
        "xyz_Latn",
        "mean",
        "ceiling",
        "gaussian",
    ]
    assert lines[1].split()[1:] == [".12", ".03"]
    assert lines[3].split()[1:] == [".25", "nan"]
    assert lines[4].split()[1:] == [".15", ".02"]
    assert len({len(line) for line in lines}) == 1


def test_table_marks_the_states_that_ties_or_rounding_decide():
    """Of state 0 are 1 % uncertain, in the mean of the languages, of state 1 are 4 %."""
    lines = report.table(SCORES, languages=LANGUAGES, sentences=101).splitlines()
    assert lines[-1] == "uncertain       .04"
    lines = report.table(SCORES, languages=LANGUAGES, sentences=100).splitlines()
    assert lines[-1] == "uncertain  .01  .04"
    assert len({len(line) for line in lines}) == 1
    shares = tables.open_shares(COUNTS, sentences=100)
    assert tables.caution(shares) == (
        "ties or rounding decide the scores at state 0, 1, of whose points up to 4% are uncertain: "
        "look for sentences that are equal, or nearly so (docs/ilo.md)"
    )
    assert tables.caution({}) == ""


@pytest.mark.parametrize("states", [2, 33])
def test_picture_is_a_png(tmp_path: Path, states: int):
    tall = ReferencedScores(*(np.resize(values, (states, 3)) for values in SCORES))
    picture = partial(report.picture, tall, title="a model", languages=LANGUAGES)
    pictures.write(tmp_path / "ilo.png", picture)
    assert (tmp_path / "ilo.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["ilo.png"]
