"""Scalars for TensorBoard, where asked for."""

import re
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from experiments.board import Board


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
