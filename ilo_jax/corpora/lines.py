"""Lines of text files, of tables and of JSON; what is malformed is named by its line."""

import codecs
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ilo_jax.corpora.pointers import is_pointer
from ilo_jax.refusals import refuse

Line = TypeVar("Line")
Made = TypeVar("Made")

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """The lines of several files of UTF-8, a byte order mark at the start dropped.

    Raises:
        OSError: If one cannot be read.
        ValueError: Naming each file that is not UTF-8, with its first byte that is not, or that
            is a pointer of git-lfs.
    """
    lines, problems = {}, []
    for name, file in files.items():
        try:
            lines[name] = split_lines(_decoded(file.read_bytes()).removeprefix("\ufeff"))
        except ValueError as error:
            problems.append(f"{file}{error}")
    refuse("text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got", problems)
    return lines


def split_lines(text: str) -> list[str]:
    r"""The lines of a text: LF, CRLF and CR end one alike, and nothing else does.

    What Unicode also calls the end of a line (U+2028, U+0085, vertical tabs, form feeds) occurs
    inside sentences, so that files of aligned text would not stay aligned.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def _decoded(data: bytes) -> str:
    """The text of a file.

    Raises:
        ValueError: If it is none, saying why in words that follow the name of the file.
    """
    if is_pointer(data):
        raise ValueError(": a pointer of git-lfs (run git lfs pull)")
    if data.startswith(UTF_16_MARKS):
        raise ValueError(": UTF-16")
    if 0 in data and _has_wide_characters(data):
        raise ValueError(": NULs as in UTF-16")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = split_lines(data[: error.start].decode() + "?")
        where = f" line {len(before)}, byte {len(before[-1].encode())}"
        raise ValueError(f"{where}: 0x{data[error.start]:02x}") from error


def undecodable(data: bytes) -> str:
    """The first byte that is not UTF-8, and where; empty if all are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1}: 0x{data[error.start]:02x}"
    return ""


def _has_wide_characters(data: bytes) -> bool:
    """Tell UTF-16 and UTF-32 that are not marked, which UTF-8 may well read: as other text.

    NULs are half of their ASCII, or more, and of every line end.
    """
    ends = data.count(b"\n")
    wide = ends in (data.count(b"\n\0"), data.count(b"\0\n")) and ends > 0
    return 4 * data.count(0) > len(data) or wide


def filled(path: Path) -> list[str]:
    """The lines of a file that has some.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is empty, or as from `read_lines`.
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
    """The columns of a tab-separated table, whose first line names them; quotes are text.

    Raises:
        ValueError: Naming all columns that come twice or have no name, or all lines with more
            cells than the first or fewer.
    """
    header, *rows = [line.split("\t") for line in lines]
    header = [name.rstrip() for name in header]
    refuse_repeated(header, f"{source}: a column must come once")
    if "" in header:
        raise ValueError(f"{source}: column {header.index('') + 1} must have a name, got none")
    ragged = [
        f"line {number}: {len(row) if row != [''] else 'none, it is blank'}"
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
    if not line.strip():
        raise ValueError("is blank")
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
