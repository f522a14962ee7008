"""A Hugging Face model folder, opened once and passed as one thing."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilo_jax.corpora.pointers import refuse_pointer
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.checkpoint import choice, index_file, weight_files
from ilo_jax.models.hub.families import Family, family_of, read_config
from ilo_jax.models.hub.families.reading import UnknownKeysError
from ilo_jax.models.hub.families.unread import ignoring, without_effect
from ilo_jax.models.hub.repository import matching, resolve
from ilo_jax.models.hub.tokenizer import load_tokenizer, tokenizer_files
from ilo_jax.models.hub.wrapped import refuse_adapter
from ilo_jax.processes import by_first, together
from ilo_jax.refusals import listed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """A model folder whose config.json is one that we read; no weight is read yet."""

    path: Path
    name: str
    """The id of the hub where it was asked for by one, else the folder's own name."""
    raw: Mapping[str, Any]
    """Its config.json, parsed, without the keys that are ignored."""
    config: ModelConfig
    family: Family
    ignored: tuple[str, ...] = ()
    """Keys of its config.json that somebody knows to change nothing."""

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The folder's tokenizer, by `transformers`; no code of the folder is run.

        Raises:
            FileNotFoundError: If the folder has none, or not all of it.
            ImportError: If a package that it needs is not installed.
            OSError: If a file of it cannot be read.
            ValueError: If it has one that is damaged, needs code of its own, or pads with
                another token than the one from which the model counts positions.
        """
        tokenizer = load_tokenizer(self.path)
        padding = self.config.embedding.padding
        if padding is not None and tokenizer.pad_token_id not in (None, padding):
            raise ValueError(
                f"{self.path}: pad_token_id of config.json must be {tokenizer.pad_token_id}, that "
                f"of the tokenizer's {tokenizer.pad_token!r}, got {padding}: the model counts "
                "positions from it; give both the one that it was trained with"
            )
        return tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are files of one."""
        return bool(tokenizer_files(self.path))

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """The SHA-256 of every file that decides a hidden state, by name.

        Keys that are ignored are named beside them. The first process hashes and tells the others:
        all of them must ask, the first time.

        Raises:
            FileNotFoundError: If there are no weights.
            RuntimeError: If the first process could not hash them.
            ValueError: If their index is damaged.
        """
        digests = by_first(
            lambda: json.dumps(_hashed(self.path)).encode(), what=f"hashing {self.path}"
        )
        ignored = {"ignore_keys": ",".join(sorted(self.ignored))} if self.ignored else {}
        return json.loads(digests) | ignored


def open_folder(
    model: str | Path, *, ignore_keys: Sequence[str] = (), whole: bool = True
) -> Folder:
    """The opened folder of a model; if it fails on any process, it fails on all.

    Args:
        model: A folder, a hub id "owner/name" (optionally "owner/name@revision"), which is
            fetched, or "sample": multilingual-e5-small.
        ignore_keys: Keys of its config.json that are not understood and change nothing, as
            whoever asks for it knows.
        whole: Whether a model that is fetched is fetched with its weights and tokenizer.

    Raises:
        FileNotFoundError: If there is none, or it has no config.json.
        ModuleNotFoundError: If the sample model is asked for, and its package not installed.
        OSError: If the sample model cannot be written.
        RuntimeError: If another process could not open it.
        ValueError: If config.json is damaged, or not one that we read; if a key that is to be
            ignored is not there, or is read.
    """
    opened = partial(_opened, model, tuple(ignore_keys), whole=whole)
    return together(opened, what=f"opening {model}")


def _opened(model: str | Path, ignored: tuple[str, ...], *, whole: bool) -> Folder:
    path = resolve(str(model), whole=whole)
    refuse_adapter(path)
    if said := choice(path):
        log.warning("%s: %s", path, said)
    raw = _parsed(path / "config.json")
    try:
        family = family_of(raw)
        raw = ignoring(raw, ignored, family)
        config = read_config(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}{_next_step(error, ignored)}") from error
    if unread := without_effect(raw, family):
        log.warning("%s: without effect in config.json: %s", path, listed(unread))
    is_id = str(model) != "sample" and not Path(model).expanduser().is_dir()
    return Folder(path, str(model) if is_id else path.name, raw, config, family, ignored)


def _next_step(error: ValueError, ignored: Sequence[str]) -> str:
    """What whoever knows unknown keys to change nothing can do."""
    if not isinstance(error, UnknownKeysError) or not error.names:
        return ""
    names = ",".join([*ignored, *error.names])
    return f"\n  if what is unknown changes nothing, go on with ignore_keys={names}"


def _parsed(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no {file.name} in {file.parent}")
    refuse_pointer(file)
    try:
        raw = json.loads(file.read_text())
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(raw).__name__}")
    return raw


def _hashed(path: Path) -> dict[str, str]:
    digests = {}
    index = [file] if (file := index_file(path)) else []
    config = matching(path, ["config.json"])
    for file in sorted([*config, *tokenizer_files(path), *index, *weight_files(path)]):
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests
