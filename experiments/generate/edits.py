"""Changes of a model while it speaks, out of a JSON file."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ilo_jax.generation.edits import Edit
from ilo_jax.refusals import refuse

FIELDS = {field.name for field in dataclasses.fields(Edit)}
NEEDED = ("site", "layer", "kind")


def read_edits(path: str) -> list[Edit]:
    """The edits of a file; whether a model has a place for them is for it to say.

    Args:
        path: Of a JSON list of objects with the fields of `Edit`; empty: there are no edits.

    Raises:
        OSError: If it is absent or cannot be read.
        ValueError: If it is no such list, naming all that are no edits.
    """
    if not path:
        return []
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no edits at {path}: there is no such file")
    try:
        records = json.loads(file.read_bytes())
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a JSON list of edits, got {type(records).__name__}")
    named = enumerate(records, 1)
    problems = [f"{number}: {problem}" for number, each in named if (problem := _problem(each))]
    refuse(f"{path}: an edit must be an object with {', '.join(NEEDED)}, got", problems)
    return [_edit(record) for record in records]


def _edit(record: Mapping[str, Any]) -> Edit:
    given = dict(record)
    values, strength = given.pop("values", 0.0), given.pop("strength", 1.0)
    return Edit(**given, values=np.asarray(values), strength=float(strength))


def _problem(record: Any) -> str:
    """What makes a JSON value no edit; empty if it is one."""
    if not isinstance(record, Mapping):
        return f"is {type(record).__name__}"
    if lacking := [name for name in NEEDED if name not in record]:
        return f"has no {', '.join(lacking)}"
    if unknown := sorted(record.keys() - FIELDS):
        return f"has {', '.join(unknown)}, where {', '.join(sorted(FIELDS))} may be"
    odd = [name for name, value in record.items() if not _is_of(name, value)]
    return f"has values of another kind as {', '.join(odd)}" if odd else ""


def _is_of(name: str, value: Any) -> bool:
    """Whether a field can have a value; which of its kind it can have is for the model to say."""
    match name:
        case "site" | "kind" | "positions":
            return isinstance(value, str)
        case "layer":
            return type(value) is int
        case "units":
            return value is None or _is_list(value, int)
        case "values":
            return _is_number(value) or _is_list(value, int, float)
        case _:
            return _is_number(value)


def _is_list(value: Any, *kinds: type) -> bool:
    return isinstance(value, list) and all(
        type(each) in kinds and math.isfinite(each) for each in value
    )


def _is_number(value: Any) -> bool:
    return _is_list([value], int, float)
