"""Where text of single languages lies, and how it is streamed from there.

Nothing here holds a text whole: of a file with several languages, only where the documents of each
begin. tensorflow-datasets reads without TensorFlow, and is imported where it is used.
"""

import codecs
import reprlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ilo_jax.corpora.layouts import choose_split, refuse_links_to_nothing
from ilo_jax.corpora.lines import is_text, paragraphs, parse_object, stream_lines, undecodable
from ilo_jax.corpora.prepared import is_prepared, kind_of, open_dataset, stream_features
from ilo_jax.refusals import listed, refuse

Unit = Literal["paragraph", "line"]
"""What of a .txt file is a document: up to a blank line, or up to the end of any line."""

SUFFIXES = (".txt", ".jsonl")

HOLDS = (
    "a folder with a .txt or .jsonl file, or a folder of them, for each language; a .jsonl file "
    "of language and text; or a prepared dataset with these features"
)
"""What text may be, for messages."""


class Piece(NamedTuple):
    """A file of documents in one language, or their part of a file."""

    name: str
    """What messages call it."""
    stream: Callable[[], Iterator[str]]
    """Yields the documents, from the first one on at each call; raises an OSError or a ValueError
    that names what is wrong, at the end if that is of single documents."""


def find_texts(path: Path, *, unit: Unit, split: str = "") -> dict[str, list[Piece]]:
    """The pieces of text of each language, sorted by language and name.

    Args:
        path: Of a folder, a .jsonl file or a prepared dataset.
        unit: What is a document of a .txt file.
        split: Of a dataset; may be empty where there is just one, and must be for files.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        OSError: If something there cannot be read.
        ValueError: If it is none of these, lacks the split, or a file with several languages is
            damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"no text at {path}: there is no such file or folder")
    if is_prepared(path):
        return _of_dataset(path, split)
    choose_split([""], split, path)
    if path.is_dir():
        return _of_folder(path, unit)
    if path.suffix != ".jsonl":
        raise ValueError(f"text must be {HOLDS}; got {path}")
    return _of_records(path)


def _of_folder(folder: Path, unit: Unit) -> dict[str, list[Piece]]:
    entries = sorted(folder.glob("[!.]*"))
    refuse_links_to_nothing(entries)
    found: dict[str, list[list[Path]]] = {}
    for entry in entries:
        if entry.is_dir():
            found.setdefault(entry.name, []).append(_texts_in(entry))
        elif entry.suffix in SUFFIXES:
            found.setdefault(entry.stem, []).append([entry])
    if not found:
        names = listed([entry.name for entry in entries]) or "nothing"
        raise ValueError(f"text must be {HOLDS}; {folder} holds {names}")
    twice = [f"{language} ({len(each)})" for language, each in found.items() if len(each) > 1]
    refuse(f"{folder}: a language must be one file or one folder, got", twice, inline=True)
    return {language: [_of_file(f, unit) for f in each[0]] for language, each in found.items()}


def _texts_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("[!.]*") if file.suffix in SUFFIXES)
    refuse_links_to_nothing(files)
    return files


def _of_file(file: Path, unit: Unit) -> Piece:
    readers = {"paragraph": _paragraphs, "line": _lines}
    reader = _texts if file.suffix == ".jsonl" else readers[unit]
    return Piece(str(file), partial(reader, file))


def _paragraphs(file: Path) -> Iterator[str]:
    return paragraphs(stream_lines(file))


def _lines(file: Path) -> Iterator[str]:
    return (line.rstrip() for line in stream_lines(file) if line.strip())


def _texts(file: Path) -> Iterator[str]:
    """Yield the text of every line of a .jsonl file."""
    return (record["text"] for _, record in _records(file, ("text",)))


def _of_records(file: Path) -> dict[str, list[Piece]]:
    """The parts of a .jsonl file of language and text."""
    records = _records(file, ("language", "text"))
    places = _by_language((record["language"], start) for start, record in records)
    if not places:
        raise ValueError(f"{file} is empty")
    return {
        language: [Piece(f"{file} ({language})", partial(_texts_at, file, starts))]
        for language, starts in sorted(places.items())
    }


def _texts_at(file: Path, starts: Sequence[int]) -> Iterator[str]:
    """Yield the text of the lines that start at some bytes of a .jsonl file."""
    with file.open("rb") as lines:
        for start in starts:
            lines.seek(start)
            yield _record(lines.readline(), ("text",))["text"]


def _records(file: Path, keys: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the objects of a .jsonl file, each after the byte that it starts at.

    Raises:
        OSError: If it cannot be read.
        ValueError: At the end, naming all lines that are no object with text under these keys.
    """
    problems, start = [], 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            mark = len(codecs.BOM_UTF8) if line.startswith(codecs.BOM_UTF8) and not start else 0
            try:
                record = _record(line[mark:], keys)
            except ValueError as error:
                problems.append(f"line {number}: {error}")
            else:
                yield start + mark, record
            start += len(line)
    rule = f"a line must be a JSON object with {' and '.join(keys)}, text that is not blank"
    refuse(f"{file}: {rule}; got", problems)


def _record(line: bytes, keys: Sequence[str]) -> dict[str, str]:
    """What an object has under some keys; others are for others.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    if problem := undecodable(line):
        raise ValueError(f"no UTF-8, {problem}")
    record = parse_object(line.decode())
    other = [
        f"{key} is {reprlib.repr(record[key])}" if key in record else f"has no {key}"
        for key in keys
        if not (is_text(record.get(key)) and record[key].strip())
    ]
    if other:
        raise ValueError(", ".join(other))
    return {key: record[key] for key in keys}


def _of_dataset(folder: Path, split: str) -> dict[str, list[Piece]]:
    """The parts of a prepared dataset of language and text."""
    builder = open_dataset(folder)
    _refuse_another_kind(builder.info, folder)
    chosen = choose_split(list(builder.info.splits), split, folder)
    source = f"{folder} ({chosen})"
    read = partial(stream_features, builder, chosen, source)
    places = _by_language(
        (_value(example, "language", f"{source} example {number}"), number)
        for number, example in enumerate(read())
    )
    return {
        language: [Piece(f"{source}, {language}", partial(_texts_of, read, numbers, source))]
        for language, numbers in sorted(places.items())
    }


def _refuse_another_kind(info: Any, folder: Path) -> None:
    kinds = {name: kind_of(feature) for name, feature in sorted(info.features.items())}
    known = kinds.get("language") == kinds.get("text") == "text"
    if info.file_format.value != "array_record" or not known:
        raise ValueError(
            f"{folder} is a dataset of another kind: it must be array_record, with language and "
            f"text, both text; got {info.file_format.value}: {kinds}"
        )


def _texts_of(
    read: Callable[..., Iterator[Any]], numbers: Sequence[int], source: str
) -> Iterator[str]:
    """Yield the text of some examples of a dataset."""
    for number, example in zip(numbers, read(numbers=numbers), strict=True):
        yield _value(example, "text", f"{source} example {number}")


def _value(example: Any, name: str, place: str) -> str:
    """The text of a feature.

    Raises:
        ValueError: If there is none, it is blank, or it is not UTF-8.
    """
    values = example[name].bytes_list.value
    if not values or not values[0].strip():
        raise ValueError(f"{place}: {name} must be text that is not blank, got {list(values)}")
    if problem := undecodable(values[0]):
        raise ValueError(f"{place}: {name} must be UTF-8, got {problem}")
    return values[0].decode()


def _by_language(found: Iterable[tuple[str, int]]) -> Mapping[str, Sequence[int]]:
    """Where the documents of each language are."""
    places: dict[str, array] = {}
    for language, place in found:
        places.setdefault(language, array("q")).append(place)
    return places
