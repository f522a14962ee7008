"""Model folders as Hugging Face has them: found or fetched, and what is beside the weights."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.checkpoint import weight_files
from ilo_jax.models.hub.families import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER = ["tokenizer*", "*.model", "special_tokens_map.json", "added_tokens.json"]
TOKENIZER += ["vocab.json", "vocab.txt", "merges.txt"]
"""Patterns of the files of tokenizers."""
FETCHED = ["config.json", "model*.safetensors", "model.safetensors.index.json", *TOKENIZER]
"""All that is ever fetched of a repository."""


def resolve(model: str) -> Path:
    """Return the local folder of a model, fetching it from the hub if it is an id.

    Args:
        model: a folder, or a hub id "owner/name" (optionally "owner/name@revision").

    Raises:
        FileNotFoundError: if it is neither, or the hub does not answer for it.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        raise FileNotFoundError(f"model must be a folder or a hub id owner/name, got {model!r}")
    name, _, revision = model.partition("@")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=FETCHED
            )
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no folder {model!r} here, and the hub says: {error}") from error


def matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the files, not the folders, that any of the patterns fits."""
    return sorted({f for pattern in patterns for f in folder.glob(pattern) if f.is_file()})


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that decides a hidden state, by name.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if their index is damaged.
    """
    digests = {}
    deciding = ["config.json", "model.safetensors.index.json", *TOKENIZER]
    for file in sorted([*matching(folder, deciding), *weight_files(folder)]):
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def raw_config(folder: Path) -> dict[str, Any]:
    """Return the parsed config.json of a model folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"no config.json in {folder}")
    try:
        raw = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(raw).__name__}")
    return raw


def folder_config(folder: Path) -> ModelConfig:
    """Return our configuration of a model folder.

    Raises:
        FileNotFoundError: if it has no config.json.
        ValueError: if that is damaged or not one that we read.
    """
    raw = raw_config(folder)
    try:
        return read_config(raw)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Return the folder's tokenizer, by `transformers`; no code of the folder is run.

    Raises:
        OSError: if the folder has none.
        ValueError: if it has one that needs code of its own.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
