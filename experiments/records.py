"""Tables that grow while a job runs, and are cut back to where it continues from."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ilo_jax.files import write_text


class Table:
    """A CSV file of numbered steps; only the first process writes it."""

    def __init__(self, file: Path, columns: Sequence[str], *, until: int):
        """Open a table, whose first column is "step".

        Args:
            file: made if it is not there.
            columns: of the table.
            until: rows of later steps are dropped, and a last row that is not whole: a run that
                continues from a checkpoint writes them again.
        """
        self.file, self.columns = file, ["step", *columns]
        if jax.process_index() == 0:
            text = _lines([self.columns, *self._rows(until)])
            write_text(file, text)

    def _rows(self, until: int) -> list[list[str]]:
        if not self.file.is_file():
            return []
        # Bytes: a kill may have come in the middle of a character.
        whole, _, _ = self.file.read_bytes().rpartition(b"\n")
        lines = csv.reader(io.StringIO(whole.decode(), newline=""))
        rows = [row for row in lines if len(row) == len(self.columns)]
        return [row for row in rows[1:] if int(row[0]) <= until]

    def add(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows of a step."""
        if jax.process_index():
            return
        cells = [[step, *(_cell(row[name]) for name in self.columns[1:])] for row in rows]
        with self.file.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_lines(cells))


def read_table(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table, by column."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def append_rows(file: Path, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a CSV file, which is made if it is not there."""
    new = not file.is_file()
    with file.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, header)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def _lines(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


class Board:
    """Scalars for TensorBoard, where asked for."""

    def __init__(self, folder: Path | None):
        """Open a folder of events.

        Raises:
            ImportError: if it is asked for and tensorboardX is not installed.
        """
        self.writer = None
        if folder is not None and jax.process_index() == 0:
            try:
                from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
            except ImportError as error:
                raise ImportError(
                    "tensorboard=True needs tensorboardX: pip install -e '.[tensorboard]'"
                ) from error
            self.writer = SummaryWriter(str(folder))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the values of a step."""
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)
