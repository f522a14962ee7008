"""Tables that are cut back to where a run continues from, and scalars for TensorBoard."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from experiments.records import Board, Table, read_table

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
    return [int(row["step"]) for row in read_table(file)]


def test_a_table_begins_with_its_columns(file):
    Table(file, COLUMNS, until=0)
    assert file.read_text() == "step,language,loss\n"
    assert read_table(file) == []


def test_rows_are_by_column_whatever_their_order(file):
    table = Table(file, COLUMNS, until=0)
    table.add(3, [{"loss": 0.5, "language": "a, b", "unasked": 1}])
    assert read_table(file) == [{"step": "3", "language": "a, b", "loss": "0.5"}]


@pytest.mark.parametrize("value", [1 / 3, 2.5e-12, 123456.789012, -7.0, np.float64(2) / 3])
def test_floats_keep_nine_digits(file, value):
    Table(file, COLUMNS, until=0).add(1, [{"language": "x", "loss": value}])
    found = float(read_table(file)[0]["loss"])
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


def test_only_the_first_process_writes(file, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    Table(file, COLUMNS, until=0).add(1, [{"language": "x", "loss": 1.0}])
    assert not file.exists()


# TensorBoard


class Writer:
    """Stands for tensorboardX's."""

    opened: ClassVar[list["Writer"]] = []

    def __init__(self, folder: str):
        self.folder, self.scalars = folder, []
        self.opened.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))


@pytest.fixture
def opened(monkeypatch) -> list[Writer]:
    monkeypatch.setattr(Writer, "opened", [])
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    return Writer.opened


def test_without_tensorboardx_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = "tensorboard=True needs tensorboardX: pip install -e '.[tensorboard]'"
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        Board(tmp_path)
    Board(None).add(1, {"loss": 1.0})  # nobody asked for it


def test_scalars_reach_the_board(tmp_path, opened):
    board = Board(tmp_path / "events")
    board.add(3, {"loss": 0.5, "bits_per_byte/deu_Latn": 1.25})
    board.add(4, {"loss": 0.25})
    (writer,) = opened
    assert writer.folder == str(tmp_path / "events")
    assert writer.scalars == [
        ("loss", 0.5, 3),
        ("bits_per_byte/deu_Latn", 1.25, 3),
        ("loss", 0.25, 4),
    ]


def test_only_the_first_process_has_a_board(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    Board(tmp_path).add(1, {"loss": 1.0})
    assert opened == []
