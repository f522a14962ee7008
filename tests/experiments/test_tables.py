"""Tables that are whole or not there, and those that are cut back to where a run continues."""

import csv
from pathlib import Path

import numpy as np
import pytest

from experiments import tables
from experiments.tables import Table, columns, tidy

COLUMNS = ("language", "loss")


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "log.csv"


def written(file: Path, steps: int) -> str:
    """Two rows for each step from 1."""
    table = Table(file, COLUMNS, until=0)
    for step in range(1, steps + 1):
        rows = [{"language": code, "loss": step / 3} for code in ("deu_Latn", "jav_Latn")]
        table.add(step, rows)
    return file.read_text()


def steps(file: Path) -> list[int]:
    return [int(row["step"]) for row in tables.read(file)]


def test_a_table_begins_with_its_columns(file):
    Table(file, COLUMNS, until=0)
    assert file.read_text() == "step,language,loss\n"
    assert tables.read(file) == []


def test_rows_are_by_column_whatever_their_order(file):
    table = Table(file, COLUMNS, until=0)
    table.add(3, [{"loss": 0.5, "language": "a, b", "unasked": 1}])
    assert tables.read(file) == [{"step": "3", "language": "a, b", "loss": "0.5"}]


@pytest.mark.parametrize("value", [1 / 3, 2.5e-12, 123456.789012, -7.0, np.float64(2) / 3])
def test_floats_keep_nine_digits(file, value):
    Table(file, COLUMNS, until=0).add(1, [{"language": "x", "loss": value}])
    found = float(tables.read(file)[0]["loss"])
    assert found == pytest.approx(float(value), rel=5e-9, abs=0)
    assert np.float32(found) == np.float32(value)


def test_integers_stay_whole(file):
    Table(file, COLUMNS, until=0).add(10**7, [{"language": "x", "loss": 12345678901}])
    assert file.read_text().splitlines()[1] == "10000000,x,12345678901"


def test_rows_of_later_steps_are_dropped(file):
    before = written(file, 12)
    Table(file, COLUMNS, until=9)
    assert steps(file) == [step for step in range(1, 10) for _ in range(2)]
    assert before.startswith(file.read_text())


def test_what_is_appended_survives_another_opening(file):
    whole = written(file, 5)
    Table(file, COLUMNS, until=3).add(4, [{"language": "x", "loss": 0.0}])
    Table(file, COLUMNS, until=4)
    assert steps(file) == [1, 1, 2, 2, 3, 3, 4]
    written(file, 5)
    assert file.read_text() == whole
    Table(file, COLUMNS, until=5)
    assert file.read_text() == whole


def test_a_last_row_that_is_not_whole_is_dropped(file):
    """Wherever it was torn: in its last cell, or within a character."""
    table, row = Table(file, COLUMNS, until=0), "3,Español,0.333333333\n".encode()
    table.add(1, [{"language": "deu_Latn", "loss": 2.0}])
    whole = file.read_bytes()
    for left in range(len(row)):
        file.write_bytes(whole + row[:left])
        Table(file, COLUMNS, until=3)
        assert file.read_bytes() == whole
    file.write_bytes(whole + row)
    Table(file, COLUMNS, until=3)
    assert file.read_bytes() == whole + row


def test_a_header_that_is_not_whole_is_written_again(file):
    file.write_text("step,langu")
    Table(file, COLUMNS, until=3)
    assert file.read_text() == "step,language,loss\n"


def test_names_may_be_anything(file):
    names = ["$a_{", "50%", "two\nlines", "a\rb", "\udcff"]
    for step, name in enumerate(names, 1):
        Table(file, COLUMNS, until=step - 1).add(step, [{"language": name, "loss": 1.0}])
    assert [row["language"] for row in tables.read(file)] == [*names[:-1], r"\udcff"]


def test_only_the_first_process_writes(file, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    Table(file, COLUMNS, until=0).add(1, [{"language": "x", "loss": 1.0}])
    assert not file.exists()


# Written at once


def test_a_file_has_the_columns_asked_for_and_ends_every_line_with_a_line_feed(file):
    rows = [{"loss": 1 / 3, "language": "a, b", "unasked": 1}, {"language": "ü", "loss": None}]
    tables.write(file, COLUMNS, iter(rows))
    assert file.read_bytes() == 'language,loss\n"a, b",0.333333\nü,\n'.encode()
    assert tables.read(file) == [
        {"language": "a, b", "loss": "0.333333"},
        {"language": "ü", "loss": ""},
    ]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (np.float32(0.1), "0.1"),
        (np.float64(2) / 3, "0.666667"),
        (123456789.0, "1.23457e+08"),
        (1.0, "1"),
        (float("nan"), "nan"),
        (np.int64(123456789), "123456789"),
        (True, "True"),
        ("0.123456789", "0.123456789"),
    ],
)
def test_a_number_has_six_digits_unless_it_is_whole(file, value, cell):
    tables.write(file, ["value"], [{"value": value}])
    assert file.read_text() == f"value\n{cell}\n"


def test_a_row_without_a_column_leaves_what_stood_there(file):
    tables.write(file, COLUMNS, [])
    with pytest.raises(KeyError, match="loss"):
        tables.write(file, COLUMNS, [{"language": "x"}])
    assert file.read_text() == "language,loss\n"
    assert [path.name for path in file.parent.iterdir()] == ["log.csv"]


def test_rows_are_added_to_those_of_before_as_they_stand(file):
    tables.extend(file, COLUMNS, [{"language": "x", "loss": 0.123456789}])
    file.write_text(file.read_text() + "y,0.123456789\n")
    tables.extend(file, COLUMNS, [{"language": "z", "loss": 2.0}])
    assert file.read_text() == "language,loss\nx,0.123457\ny,0.123456789\nz,2\n"


def test_rows_of_other_columns_are_not_added(file):
    tables.write(file, ["language", "bits"], [{"language": "x", "bits": 1.0}])
    before = file.read_text()
    with pytest.raises(ValueError, match=r"columns language, loss .*, got language, bits"):
        tables.extend(file, COLUMNS, [{"language": "x", "loss": 0.5}])
    assert file.read_text() == before


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match=r"^cannot write .*none/log.csv: "):
        tables.write(tmp_path / "none/log.csv", COLUMNS, [])


FORMULAS = ["=1+1", "+cmd", "-eng", "@sum", "\t=1", "'=1", "''-x"]
TEXTS = ["-0.5", "+1e3", "-inf", "eng=1", "'a", "", "a\nb", "a,b"]


def test_text_that_a_spreadsheet_would_compute_is_marked_and_comes_back(file):
    rows = [{"language": text, "loss": -0.25} for text in FORMULAS + TEXTS]
    tables.write(file, COLUMNS, rows)
    with file.open(newline="") as stream:
        cells = [row[0] for row in csv.reader(stream)][1:]
    assert cells == [f"'{text}" for text in FORMULAS] + TEXTS
    before = file.read_text()
    tables.extend(file, COLUMNS, [])
    assert file.read_text() == before
    assert [row["language"] for row in tables.read(file)] == FORMULAS + TEXTS
    assert {row["loss"] for row in tables.read(file)} == {"-0.25"}


def test_scores_become_a_row_for_every_state_and_language():
    scores = {
        "ilo": np.array([[0.5, 1.0], [0.25, np.nan]]),
        "uncertain": np.arange(4).reshape(2, 2),
    }
    rows = list(tidy(scores, ["deu", "eng"]))
    assert [list(row.values())[:3] for row in rows[:3]] == [
        [0, "deu", 0.5],
        [0, "eng", 1.0],
        [1, "deu", 0.25],
    ]
    assert np.isnan(rows[3]["ilo"])
    assert [row["uncertain"] for row in rows] == [0, 1, 2, 3]


# For people


def test_cells_end_where_their_column_does():
    lines = [["name", "s"], ["a", "12.5"]]
    assert columns(iter(lines)) == "name     s\n   a  12.5"
