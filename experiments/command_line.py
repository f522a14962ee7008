"""What a command line may say: a file of settings, fields, flags; and the help that lists them."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import runpy
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.settings import mistyped

HELP = ("h", "?", "help", "helpshort", "helpfull")
"""Flags that ask for help."""
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What a Python file that somebody wrote may raise."""
PREFIX = "config."
"""What flags of fields begin with."""


def read_config(path: str, *, kind: type | None = None) -> Any:
    """The configuration that `get_config` of a Python file gives.

    Args:
        path: The file.
        kind: Class of the job's configurations; None: any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no Python, has no `get_config`, or that fails or gives another
            job's, or values of wrong types.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--config must be a Python file, got {path}")
    try:
        config = runpy.run_path(path)["get_config"]()
    except BROKEN as error:
        raise ValueError(_broken(path, error)) from error
    if kind and type(config) is not kind:
        raise ValueError(
            f"get_config() of {path} must give a configuration of {kind.__module__}, got "
            f"{type(config).__module__}.{type(config).__qualname__}"
        )
    if wrong := mistyped(config):
        raise ValueError(f"{path}: {'; '.join(wrong)}")
    return config


def _broken(path: str, error: Exception) -> str:
    """What is wrong with a file of settings, and in which line of it."""
    if isinstance(error, KeyError) and error.args == ("get_config",):
        return f"{path} must define get_config(), which gives the configuration of the job"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    where = f"{path}, line {lines[-1]}" if lines else path
    said = " ".join(str(error).split())
    return f"{where}: {type(error).__name__}: {said}; --help lists all fields"


def config_file(words: Iterable[str]) -> str | None:
    """The file that --config names, the last where there are several; None: none."""
    parsed = flags.FlagValues()
    flags.DEFINE_string("config", None, "", flag_values=parsed)
    parsed(["", *words], known_only=True)
    return parsed["config"].value


def field_of(word: str) -> str | None:
    """The field of the configuration that a word of the command line sets; None: none."""
    name = _flag_of(word)
    name = name.removeprefix("no") if name.startswith(f"no{PREFIX}") else name
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def _flag_of(word: str) -> str:
    """The name in --name=value, -name or value."""
    return word.lstrip("-").split("=", 1)[0]


def flags_of(words: Iterable[str]) -> list[str]:
    """The names of all flags among the words of a command line."""
    return [_flag_of(word) for word in words if word.startswith("--")]


def asks_for_help(word: str) -> bool:
    """Whether a word of the command line does."""
    return word.startswith("-") and _flag_of(word) in HELP


def unknown(names: Sequence[str], known: Iterable[str]) -> str:
    """What to say of flags that nobody knows, all of them at once.

    Args:
        names: Theirs, such as "config.modle".
        known: All flags, such as "workdir" and "config.model"; the nearest of them is named, by
            what comes after the dot: --model may mean --config.model.
    """
    known = {name.rpartition(".")[2]: name for name in known}
    shown = ", ".join(_with_nearest(name, known) for name in names)
    return f"Unknown command line flag{'s' * (len(names) > 1)} {shown}; --help lists all"


def _with_nearest(name: str, known: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    return f"{name!r} (nearest: --{known[near[0]]})" if near else repr(name)


def refused(error: flags.IllegalFlagValueError, defined: flags.FlagValues) -> str:
    """What to say of a value that a flag cannot have: what it may be, where the flag knows.

    Args:
        error: Whose message begins with "flag --NAME=VALUE: ".
        defined: All flags.
    """
    match = re.match(r"flag --([^=]+)=(.*?): ", str(error), re.DOTALL)
    if not match or match[2] == "None":  # a flag that must be given has a message of its own
        return str(error)
    flag = defined[match[1]]
    allowed = "true or false" if flag.boolean else flag.parser.syntactic_help
    return f"{match[0]}must be {allowed}" if allowed else str(error)


def whole_numbers(flag: str, words: Iterable[str], *, least: int) -> list[int]:
    """The numbers that a flag lists.

    Args:
        flag: Its name.
        words: What it lists.
        least: What each must at least be.

    Raises:
        ValueError: If it lists nothing, or anything else; naming all of that.
    """
    words = list(words)
    wrong = [word for word in words if not re.fullmatch("[0-9]+", word) or int(word) < least]
    if wrong or not words:
        got = ", ".join(map(repr, wrong)) or "none"
        raise ValueError(f"--{flag} must list whole numbers of at least {least}, got {got}")
    return [int(word) for word in words]


def field_texts(kind: type) -> dict[str, str]:
    """What the source says below each field of a dataclass, its bases' included."""
    said: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if dataclasses.is_dataclass(part):
            said |= _texts_in(part)
    return {field.name: said.get(field.name, "") for field in dataclasses.fields(kind)}


def _texts_in(part: type) -> dict[str, str]:
    """The strings below the fields in the body of one class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
    assert isinstance(tree, ast.ClassDef)
    said = {}
    for pair in itertools.pairwise(tree.body):
        match pair:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                said[name] = " ".join(text.split())
    return said


def help_text(about: str, config: Any, plain: Iterable[flags.Flag]) -> str:
    """What --help prints: what a script does, the fields of its configuration, its other flags.

    Args:
        about: Docstring of the script.
        config: Its configuration, whose values are the defaults; None if it has none.
        plain: The other flags.
    """
    parts = [about.strip()]
    if config is not None:
        parts.append("Fields of the configuration:\n" + "\n".join(_fields(config)))
    shown = sorted(plain, key=lambda flag: flag.name)
    return "\n\n".join([*parts, "Flags:\n" + "\n".join(map(_plain, shown))])


def _fields(config: Any) -> Iterable[str]:
    texts = field_texts(type(config))
    for field in dataclasses.fields(config):
        words = [bound.words for bound in field.metadata.get("bounds", ())]
        default = repr(getattr(config, field.name))
        yield _entry(f"--{PREFIX}{field.name}", texts[field.name], [f"default: {default}", *words])


def _plain(flag: flags.Flag) -> str:
    no = "[no]" if flag.boolean else ""
    default = [f"default: {flag.default_as_str}"] if flag.default is not None else []
    return _entry(f"--{no}{flag.name}", flag.help or "", default)


def _entry(name: str, text: str, notes: Sequence[str]) -> str:
    said = f"{name}: {text}" + (f" ({'; '.join(notes)})" if notes else "")
    return textwrap.fill(said, 100, initial_indent="  ", subsequent_indent="      ")
