"""Lines of text files, of tables and of JSON; what is malformed is named by its line."""

import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ilo_jax.refusals import refuse

Line = TypeVar("Line")
Made = TypeVar("Made")


def read_lines(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """The lines of several files.

    Raises:
        ValueError: Naming the first byte of each file that is not UTF-8.
    """
    lines, problems = {}, []
    for name, file in files.items():
        data = file.read_bytes()
        try:
            text = data.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            byte = error.start - data.rfind(b"\n", 0, error.start)
            problems.append(f"{file} line {line}, byte {byte}: 0x{data[error.start]:02x}")
        else:
            lines[name] = text.removesuffix("\n").split("\n") if text else []
    refuse("text must be UTF-8, got", problems)
    return lines


def filled(path: Path) -> list[str]:
    """The lines of a file that has some.

    Raises:
        ValueError: If it is empty, or naming the first byte that is not UTF-8.
    """
    lines = read_lines({str(path): path})[str(path)]
    if not lines:
        raise ValueError(f"{path} is empty")
    return lines


def made(
    lines: Iterable[Line], make: Callable[[Line], Made], *, what: str, number: int = 1
) -> list[Made]:
    """What is made of every line.

    Args:
        lines: To make something of.
        make: Makes it, or raises a ValueError.
        what: Opens the message, with the rule that was broken.
        number: Of the first line.

    Raises:
        ValueError: Naming all lines for which `make` raised one.
    """
    results, problems = [], []
    for place, line in enumerate(lines, number):
        try:
            results.append(make(line))
        except ValueError as error:
            problems.append(f"line {place}: {error}")
    refuse(f"{what}, got", problems)
    return results


def parse_tsv(lines: Sequence[str], source: str) -> dict[str, list[str]]:
    """The columns of a tab-separated table.

    Not by the csv module: even with quoting off it refuses a carriage return in a cell.
    """
    header, *rows = [line.split("\t") for line in lines]
    header = [name.rstrip() for name in header]
    refuse_repeated(header, f"{source}: a column must come once")
    if "" in header:
        raise ValueError(f"{source}: column {header.index('') + 1} must have a name, got none")
    ragged = [
        f"line {number}: {len(row)}"
        for number, row in enumerate(rows, 2)
        if len(row) != len(header)
    ]
    refuse(f"{source}: a line must have {len(header)} cells, as the header has, got", ragged)
    return {name: [row[column] for row in rows] for column, name in enumerate(header)}


def parse_object(line: str) -> dict[str, Any]:
    """One line's object, whose values may be anything.

    Raises:
        ValueError: If it is none, or repeats a key.
    """
    try:
        record = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.colno}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"is {reprlib.repr(record)}")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    refuse_repeated([key for key, _ in pairs], "a key must come once")
    return dict(pairs)


def is_text(value: object) -> bool:
    """Tell text from JSON's other values, and from strings with half a surrogate pair."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def refuse_repeated(names: Sequence[str], what: str) -> None:
    """Stop if a name comes more than once.

    Raises:
        ValueError: Naming all that do.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{what}, got more than once: {', '.join(repeated)}")
