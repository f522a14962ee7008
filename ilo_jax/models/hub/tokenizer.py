"""The tokenizer of a model folder: which files are its, and how it is read."""

import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilo_jax.corpora.pointers import refuse_pointer
from ilo_jax.models.hub.repository import TOKENIZER, matching
from ilo_jax.refusals import listed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTINGS = "tokenizer_config.json"
WHOLE = "take its files whole from where the model came from"
"""What to do about most that is wrong with a tokenizer."""
CONVERT = (
    ", or convert it where that is installed, with transformers' "
    "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
)
PACKAGES = {"tiktoken.model": "tiktoken", "*.model": "sentencepiece", "*.spm": "sentencepiece"}
"""Packages, each an extra of ours, that read the files of a pattern; the first that fits counts."""
CONVERTED = ["tokenizer.*json", "tokenizer.model*", "tiktoken.model", "tekken*.json"]
"""Patterns of what `transformers` turns into any fast tokenizer, whatever its class declares."""


def tokenizer_files(folder: Path) -> list[Path]:
    """All files of a folder that decide what tokens a text has, sorted.

    They are those of the patterns in `repository.TOKENIZER`; those that the classes declare of
    which `transformers` picks one for the folder; and those that tokenizer_config.json names.
    """
    names = {name for kind in _classes(folder) for name in kind.vocab_files_names.values()}
    names |= set(_named(_read(folder / SETTINGS)))
    beside = {file for file in folder.iterdir() if file.name in names and file.is_file()}
    return sorted({*matching(folder, TOKENIZER), *beside})


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder, by `transformers`; no code of the folder is run.

    Raises:
        FileNotFoundError: If the folder has none, or no vocabulary of it.
        ImportError: If a package that it needs is not installed.
        OSError: If a file of it cannot be read.
        ValueError: If it has one that is damaged, needs code of its own, or cuts up at random.
    """
    from transformers import AutoTokenizer

    files = tokenizer_files(folder)
    if not files:
        raise FileNotFoundError(f"no tokenizer in {folder}: {WHOLE}")
    for file in files:
        refuse_pointer(file)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except MemoryError:
        raise
    # The one place where every error is caught: of a damaged file, tokenizers raises a bare
    # `Exception`, and transformers whatever its own reading runs into (KeyError, TypeError).
    except Exception as error:
        raise _explained(error, folder, files) from error
    if lacking := _lacking(folder, type(tokenizer)):
        raise lacking
    _refuse_chance(tokenizer, folder)
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `transformers` from logging what it tries: what is wrong in the end is an error."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _classes(folder: Path) -> Iterator[type["PreTrainedTokenizerBase"]]:
    """Yield the classes that the folder names, and the one of its model type."""
    from transformers.models.auto import tokenization_auto as auto

    config = _read(folder / "config.json")
    named = [each.get("tokenizer_class") for each in (_read(folder / SETTINGS), config)]
    for name in [*named, auto.TOKENIZER_MAPPING_NAMES.get(str(config.get("model_type")))]:
        # A class whose package is absent breaks: what transformers has of it is in the patterns.
        with suppress(ImportError):
            kind = auto.tokenizer_class_from_name(name) if isinstance(name, str) else None
            if kind is not None and hasattr(kind, "vocab_files_names"):
                yield kind


def _named(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of files among the settings of a tokenizer."""
    for key, value in settings.items():
        if key.endswith(("_file", "_files")):
            names = value if isinstance(value, list) else [value]
            yield from (name for name in names if isinstance(name, str))


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, which is told when the tokenizer is loaded."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lacking(folder: Path, kind: type["PreTrainedTokenizerBase"]) -> FileNotFoundError | None:
    """What is wrong with a folder that lacks files from which a class has its words, if it does.

    Of some fast classes, `transformers` makes a tokenizer without them, which knows no word.
    """
    from transformers import PreTrainedTokenizerFast

    keys = ("vocab_file", "merges_file")
    needed = [kind.vocab_files_names[key] for key in keys if key in kind.vocab_files_names]
    absent = [name for name in needed if not (folder / name).is_file()]
    fast = issubclass(kind, PreTrainedTokenizerFast)
    converted = fast and matching(folder, CONVERTED)
    if converted or not (absent or (fast and not needed)):
        return None
    either = [*(["tokenizer.json"] if fast else []), *([" and ".join(needed)] if needed else [])]
    return FileNotFoundError(
        f"no vocabulary of the tokenizer in {folder}: it must hold {' or '.join(either)}; {WHOLE}"
    )


def _refuse_chance(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Stop at a tokenizer that cuts a text up otherwise each time: nothing could be kept."""
    from transformers import PreTrainedTokenizerFast

    fast = isinstance(tokenizer, PreTrainedTokenizerFast)
    words = tokenizer.backend_tokenizer.model if fast else None
    if rate := getattr(words, "dropout", None):
        raise ValueError(
            f"the tokenizer in {folder} must give a text the same tokens each time, got a dropout "
            f"of {rate:g} of its merges: set model.dropout of its tokenizer.json to null"
        )


def _explained(error: Exception, folder: Path, files: Sequence[Path]) -> Exception:
    """What is wrong with a tokenizer that could not be loaded, and what to do, in one line."""
    where = f"cannot read the tokenizer in {folder}"
    said = f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"
    if absent := _absent_packages(error, folder, files):
        return ImportError(f"{where}: {listed(absent)}{CONVERT}")
    if isinstance(error, ImportError):
        return ImportError(said)
    if damaged := [f"{file.name} is not JSON: {why}" for file, why in _damaged(files)]:
        return ValueError(f"{where}: {listed(damaged)}; {WHOLE}")
    picked = next(_classes(folder), None)
    if picked and (lacking := _lacking(folder, picked)):
        return lacking
    if "auto_map" in _read(folder / SETTINGS):
        return ValueError(f"{said}; code of a folder is never run: give it a tokenizer.json")
    kind = OSError if isinstance(error, OSError) else ValueError
    names = listed([file.name for file in files])
    return kind(f"{said}; {WHOLE} ({names}), or upgrade transformers and tokenizers")


def _absent_packages(error: Exception, folder: Path, files: Sequence[Path]) -> list[str]:
    """What to install for files that only a package reads which is not there."""
    if (folder / "tokenizer.json").is_file() and not isinstance(error, ImportError):
        return []
    needs = {}
    for file in files:
        package = next((p for pattern, p in PACKAGES.items() if file.match(pattern)), None)
        if package and importlib.util.find_spec(package) is None:
            needs[package] = f"{file.name} needs {package}: pip install -e '.[{package}]'"
    return list(needs.values())


def _damaged(files: Sequence[Path]) -> Iterator[tuple[Path, ValueError]]:
    """Yield the JSON files that are none, and why."""
    for file in files:
        if file.suffix == ".json":
            try:
                json.loads(file.read_bytes())
            except ValueError as error:
                yield file, error
