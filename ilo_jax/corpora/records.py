"""Aligned text as JSON: a table with the languages as keys, or FLORES+'s file for each language."""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ilo_jax.corpora.lines import is_text, made, parse_object, read_lines
from ilo_jax.refusals import refuse


def parse_records(lines: Sequence[str], source: str) -> dict[str, list[Any]]:
    """The values of every key of a table of JSON objects, text or not.

    Raises:
        ValueError: Naming all lines that are no object, or lack a key of the first or have more.
    """
    records = made(lines, parse_object, what=f"{source}: a line must be a JSON object")
    keys = records[0].keys()
    differing = [
        f"line {number}: " + ", ".join(_differences(record.keys(), keys))
        for number, record in enumerate(records, 1)
        if record.keys() != keys
    ]
    refuse(f"{source}: a line must have the keys of line 1, got", differing)
    return {key: [record[key] for record in records] for key in keys}


def _differences(keys: Collection[str], expected: Collection[str]) -> list[str]:
    return [f"no {key}" for key in expected if key not in keys] + [
        f"also {key}" for key in keys if key not in expected
    ]


def refuse_other_than_text(columns: Mapping[str, Sequence[object]], source: str) -> None:
    """Stop if a value is not text.

    Raises:
        ValueError: Naming all that are not by column and number.
    """
    problems = [
        f"{code} {number}: {reprlib.repr(value)}"
        for code, values in columns.items()
        for number, value in enumerate(values, 1)
        if not is_text(value)
    ]
    refuse(f"{source}: a sentence must be text, got", problems)


def read_texts(files: Mapping[str, Path], source: str) -> dict[str, list[str]]:
    """What every language's file has as `text`, an object a line, as FLORES+ on the hub.

    Args:
        files: By language.
        source: What messages call all of them.

    Raises:
        OSError: If one cannot be read.
        ValueError: Naming the lines that are no object or have no text, or the files whose `id`
            are not those of the first in their order.
    """
    columns = {
        code: parse_records(lines, str(files[code])) if lines else {}
        for code, lines in read_lines(files).items()
    }
    without = [str(files[code]) for code, found in columns.items() if "text" not in found]
    refuse(f"{source}: every line of a language's file must have a text, got none in", without)
    ids = [found.get("id") for found in columns.values()]
    others = [str(file) for file, own in zip(files.values(), ids, strict=True) if own != ids[0]]
    first = next(iter(files.values()))
    refuse(f"{source}: the id of all lines must be those of {first}, got others in", others)
    texts = {code: found["text"] for code, found in columns.items()}
    refuse_other_than_text(texts, source)
    return texts
