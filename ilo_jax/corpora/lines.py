"""Lines of text files, of tables and of JSON; what is malformed is named by its line."""

import codecs
import itertools
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ilo_jax.corpora.pointers import is_pointer
from ilo_jax.refusals import refuse

Line = TypeVar("Line")
Made = TypeVar("Made")

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

UTF_8 = "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got"
"""The rule that a file of other bytes breaks, for messages."""

HEAD = 2**16
"""Bytes of a streamed file by which another encoding is known."""


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
            data = file.read_bytes()
            _refuse_other_encodings(data)
            lines[name] = split_lines(_decoded(data).removeprefix("\ufeff"))
        except ValueError as error:
            problems.append(f"{file}{error}")
    refuse(UTF_8, problems)
    return lines


def stream_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file as `read_lines` has them, never holding all.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not UTF-8, naming the first byte that is not, or a pointer of git-lfs.
    """
    number = 1
    with file.open("rb") as stream, _naming(file):
        _refuse_other_encodings(stream.read(HEAD))
        stream.seek(0)
        for data in stream:
            text = _decoded(data, number)
            lines = split_lines(text.removeprefix("\ufeff") if number == 1 else text)
            yield from lines
            number += len(lines)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say of which file it is that it is not UTF-8."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{UTF_8} {file}{error}") from error


def split_lines(text: str) -> list[str]:
    r"""The lines of a text: LF, CRLF and CR end one alike, and nothing else does.

    What Unicode also calls the end of a line (U+2028, U+0085, vertical tabs, form feeds) occurs
    inside sentences, so that files of aligned text would not stay aligned.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def _decoded(data: bytes, number: int = 1) -> str:
    """The text of a file, or of what is in it from the line of a number on.

    Raises:
        ValueError: If it is none, saying why in words that follow the name of the file.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = split_lines(data[: error.start].decode() + "?")
        where = f" line {number + len(before) - 1}, byte {len(before[-1].encode())}"
        raise ValueError(f"{where}: 0x{data[error.start]:02x}") from error


def _refuse_other_encodings(data: bytes) -> None:
    """Stop at a file, by the whole of it or its first bytes, that is known to be no UTF-8.

    Raises:
        ValueError: Saying what it is in words that follow the name of the file.
    """
    if is_pointer(data):
        raise ValueError(": a pointer of git-lfs (run git lfs pull)")
    if data.startswith(UTF_16_MARKS):
        raise ValueError(": UTF-16")
    if 0 in data and _has_wide_characters(data):
        raise ValueError(": NULs as in UTF-16")


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield the runs of lines that are not blank, white space at their ends dropped."""
    runs = itertools.groupby((line.rstrip() for line in lines), bool)
    return ("\n".join(run) for filled, run in runs if filled)


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
