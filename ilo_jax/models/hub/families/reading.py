"""The strict reading of a Hugging Face config.json.

A key is accepted only if the family says what it means or that it changes nothing; any
other key, a missing one, a wrong type or a value that we do not compute is an error,
never a silent default.
"""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple

NUMBER = (int, float)
"""The kind of a key that is read as a float."""

REFUSED = {
    "per_layer_config": "blocks that differ from each other are not read",
    "quantization_config": "quantised weights are not read; take those from before",
    "transformers_weights": "weights are read from model.safetensors or its index",
}
"""Keys that change what a model is, and what to do where one is there."""

REQUIRED = object()
"""Marks a key without which a config.json is refused."""


class Key(NamedTuple):
    """How one key of a config.json is read."""

    facts: str
    """The facts that its value becomes, separated by spaces; "": it is only checked."""
    kind: type | tuple[type, ...]
    """With `NoneType` among them, null is a value like others; else it is as if absent."""
    default: Any = REQUIRED
    """What the family's original code takes where the key is absent."""
    allowed: Mapping[Any, Any] | tuple[Any, ...] = ()
    """If not empty, the only values that we compute; a mapping says which fact each is."""
    also: tuple[str, ...] = ()
    """Other names of the key."""
    instead: tuple[str, ...] = ()
    """Names that are read where it has none of its own, and else decide nothing."""

    @property
    def kinds(self) -> tuple[type, ...]:
        """The types that are accepted."""
        return self.kind if isinstance(self.kind, tuple) else (self.kind,)

    def given(self, raw: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The key's values in a config.json, by the names they have there."""
        own, others = (
            {
                n: raw[n]
                for n in names
                if n in raw and (raw[n] is not None or NoneType in self.kinds)
            }
            for names in ((name, *self.also), self.instead)
        )
        return own or dict(itertools.islice(others.items(), 1))

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if not isinstance(value, self.kinds) or (
            isinstance(value, bool) and bool not in self.kinds
        ):
            names = ("null" if k is NoneType else k.__name__ for k in self.kinds)
            return f"must be {' or '.join(names)}, got {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be finite, got {value!r}"
        if self.allowed and value not in self.allowed:
            return f"must be one of {list(self.allowed)}, got {value!r}"
        return None

    def fact(self, value: Any) -> Any:
        """What an accepted value means; an integer is a number where numbers are."""
        if float in self.kinds and type(value) is int:
            return float(value)
        return self.allowed[value] if isinstance(self.allowed, Mapping) else value


class UnknownKeysError(ValueError):
    """Some keys of a config.json are not understood."""

    def __init__(self, message: str, names: Sequence[str]):
        super().__init__(message)
        self.names = tuple(name for name in names if name not in REFUSED)
        """Those that somebody may know to change nothing."""


def names_of(keys: Mapping[str, Key]) -> set[str]:
    """All names under which a table's keys are read."""
    return {n for name, key in keys.items() for n in (name, *key.also, *key.instead)}


def only(value: Any) -> Key:
    """The key that decides nothing, as there is one value that we compute."""
    kind = NUMBER if isinstance(value, float) else type(value)
    return Key("", kind, value, (value,))


def unsupported() -> Key:
    """The key that must be absent or null."""
    return Key("", NoneType, None)


def read_keys(
    raw: Mapping[str, Any], keys: Mapping[str, Key], *, inert: Iterable[str], where: str
) -> dict[str, Any]:
    """The facts that the keys give, defaults filled in.

    Args:
        raw: The parsed JSON object.
        keys: The keys that are read, and how.
        inert: Keys that may be present and change no number that we compute.
        where: What is being read, for the error message.

    Raises:
        ValueError: Naming every unknown, missing, mistyped and unsupported key, and
            two names of one key that disagree.
    """
    unknown = sorted(set(raw) - set(inert) - names_of(keys))
    problems = [f"{name}: unknown key{_advice(name, keys)}" for name in unknown]
    facts = {}
    for name, key in keys.items():
        given = key.given(raw, name)
        value = next(iter(given.values()), key.default)
        if value is REQUIRED:
            problems.append(f"{name}: missing")
        elif any(other is not value and other != value for other in given.values()):
            different = " and ".join(f"{n} is {v!r}" for n, v in given.items())
            problems.append(f"{name}: its names disagree: {different}")
        elif given and (problem := key.problem(value)):
            problems.append(f"{name}: {problem}")
        else:
            facts |= dict.fromkeys(key.facts.split(), key.fact(value))
    if problems:
        message = f"cannot read {where}:\n  " + "\n  ".join(problems)
        raise UnknownKeysError(message, unknown) if unknown else ValueError(message)
    return facts


def _advice(name: str, keys: Mapping[str, Key]) -> str:
    """What to think of an unknown key."""
    if name in REFUSED:
        return f": {REFUSED[name]}"
    near = difflib.get_close_matches(name, sorted(names_of(keys)), n=1)
    return f"; there is {near[0]}" if near else ""
