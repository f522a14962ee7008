"""Where the folder of a model is, and the names of its files."""

import re
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub

from ilo_jax.models.sample import e5_small

TOKENIZER = """tokenizer* *.model *.spm *.tokenizer tekken*.json *vocab*.json vocab.txt dict.txt
    merges.txt bpe.codes byte_maps.json emoji.json normalizer.json word_*.json
    special_tokens_map.json added_tokens.json""".split()
"""Patterns of the files of tokenizers, of every class that `transformers` has."""
CARRIED = """generation_config.json chat_template* additional_chat_templates/*.jinja LICENSE*
    NOTICE*""".split()
"""Patterns of what a saved model takes over beside its tokenizer, as it is."""
SETTINGS = ["config.json", "adapter_config.json"]
"""What a model is; an adapter's settings tell that it is none."""
FETCHED = [*SETTINGS, "model*.safetensors", "model.safetensors.index.json", *TOKENIZER, *CARRIED]
"""All that is ever fetched of a repository."""


def resolve(model: str, *, whole: bool = True) -> Path:
    """The local folder of a model, fetching it from the hub if it is an id.

    Args:
        model: A folder, a hub id "owner/name" (optionally "owner/name@revision"), or "sample":
            multilingual-e5-small, which is made where it is not yet.
        whole: Whether to fetch more than its settings.

    Raises:
        FileNotFoundError: If it is neither, or the hub does not answer for it.
        ModuleNotFoundError: If the sample model's package is not installed.
        OSError: If the sample model cannot be written.
        ValueError: If its package is not the one that we know.
    """
    if model == "sample":
        return e5_small.folder()
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        raise FileNotFoundError(f"model must be a folder or a hub id owner/name, got {model!r}")
    name, _, revision = model.partition("@")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=FETCHED if whole else SETTINGS
            )
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no folder {model!r} here, and the hub says: {error}") from error


def matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files, not the folders, that any of the patterns fits."""
    return sorted({f for pattern in patterns for f in folder.glob(pattern) if f.is_file()})
