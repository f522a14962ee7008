"""How results are written down: CSV files, whole or not at all, and text in columns."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from ilo_jax.files import write_text
from ilo_jax.refusals import listed

Row = Mapping[str, Any]
"""The cells of a line, by column; those that nobody asks for are left out."""

DIGITS = 6
"""Significant digits of a number in a table of results."""
EXACT = 9
"""In the log of a training: enough to tell any two float32 apart."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How text begins that a spreadsheet takes for a formula; in a table it has a ' before it."""
INTERLINGUA = "state language bridge reach ilo ceiling gaussian uncertain".split()
"""Columns of ILO beside its references, as every job writes it: those of `tidy` scores."""
OPEN = 0.01
"""Share of uncertain points from which on the second digit of a score means nothing."""


def columns(lines: Iterable[Sequence[str]]) -> str:
    """Lines of cells with every column as wide as its widest cell, aligned at the right."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def write(file: Path, header: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a CSV file, whole or not at all.

    Args:
        file: where.
        header: Which columns, in which order.
        rows: Of each line.

    Raises:
        OSError: If it cannot be written; what stood there before still stands.
    """
    write_text(file, _text([header, *_cells(header, rows, digits=DIGITS)]))


def extend(file: Path, header: Sequence[str], rows: Iterable[Row]) -> None:
    """Add rows to a CSV file, which is made if it is not there, all of them or none.

    Raises:
        OSError: If it cannot be written; what stood there before still stands.
        ValueError: If the file has other columns.
    """
    before = read(file) if file.is_file() else []
    if before and list(before[0]) != list(header):
        raise ValueError(
            f"{file} must have the columns {', '.join(header)} to be added to, got "
            f"{', '.join(before[0])}; move it away"
        )
    write(file, header, [*before, *rows])


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column.

    Raises:
        OSError: If it cannot be read.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        return [{name: _plain(cell) for name, cell in row.items()} for row in rows]


class Table:
    """A CSV file of numbered steps that grows while a job runs; only the first process writes."""

    def __init__(self, file: Path, header: Sequence[str], *, until: int):
        """Open a table, whose first column is "step".

        Args:
            file: Made if it is not there.
            header: Its other columns.
            until: Rows of later steps are dropped, and a last row that is not whole: a run that
                continues from a checkpoint writes them again.
        """
        self.file, self.header = file, ["step", *header]
        if jax.process_index() == 0:
            write_text(file, _text([self.header, *self._rows(until)]))

    def _rows(self, until: int) -> list[list[str]]:
        if not self.file.is_file():
            return []
        # Bytes: a kill may have come in the middle of a character.
        whole, _, _ = self.file.read_bytes().rpartition(b"\n")
        lines = csv.reader(io.StringIO(whole.decode(), newline=""))
        rows = [row for row in lines if len(row) == len(self.header)]
        return [row for row in rows[1:] if int(row[0]) <= until]

    def add(self, step: int, rows: Iterable[Row]) -> None:
        """Add rows of a step."""
        if jax.process_index():
            return
        numbered = ({"step": step} | dict(row) for row in rows)
        text = _text(_cells(self.header, numbered, digits=EXACT))
        with self.file.open("ab") as stream:
            stream.write(text.encode(errors="backslashreplace"))


def tidy(scores: Mapping[str, Any], languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every hidden state and language.

    Args:
        scores: Arrays "state lang", by the names of their columns.
        languages: Names of all languages.
    """
    arrays = {name: np.asarray(values) for name, values in scores.items()}
    for state, lang in np.ndindex(next(iter(arrays.values())).shape):
        values = {name: array[state, lang] for name, array in arrays.items()}
        yield {"state": state, "language": languages[lang]} | values


def open_shares(uncertain: Int[np.ndarray, "state lang"], *, sentences: int) -> dict[int, float]:
    """The states whose scores ties or rounding decide, with their share of uncertain points.

    Args:
        uncertain: Number of uncertain points.
        sentences: Number of points of each language.
    """
    shares = np.asarray(uncertain).mean(axis=1) / sentences
    return {state: share for state, share in enumerate(shares.tolist()) if share >= OPEN}


def caution(shares: Mapping[int, float]) -> str:
    """What to say of the states of `open_shares`; nothing where there are none."""
    if not shares:
        return ""
    states = listed([str(state) for state in shares])
    return (
        f"ties or rounding decide the scores at state {states}, of whose points up to "
        f"{max(shares.values()):.0%} are uncertain: look for sentences that are equal, or nearly "
        "so (docs/ilo.md)"
    )


def _cells(header: Sequence[str], rows: Iterable[Row], *, digits: int) -> Iterator[list[Any]]:
    for row in rows:
        yield [_cell(row[name], digits) for name in header]


def _cell(value: Any, digits: int) -> Any:
    if isinstance(value, str):
        return f"'{value}" if _is_formula(value.lstrip("'")) else value
    return f"{value:.{digits}g}" if isinstance(value, (float, np.floating)) else value


def _plain(cell: str) -> str:
    """The text of a cell, without the quote that keeps a spreadsheet from computing it."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    """Tell what a spreadsheet would compute, such as a file's name that begins with =."""
    if not text.startswith(FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _text(lines: Iterable[Sequence[Any]]) -> str:
    return "".join(map(_line, lines))


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)  # with its own end of a line, or \r would not be quoted
    return text.getvalue().removesuffix("\r\n") + "\n"
