"""Which tokens end a text: the model's own, and others by name."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ilo_jax.corpora.pointers import refuse_pointer
from ilo_jax.models.hub.folder import Folder
from ilo_jax.refusals import refuse

KEY = "eos_token_id"
"""Of generation_config.json and of config.json: an id, or a list of them."""


def end_tokens(folder: Folder, *, more: Sequence[str] = ()) -> Bool[np.ndarray, " vocab"]:
    """Which token ids end a text.

    The model's own are those of generation_config.json, or where it names none of config.json, or
    where that names none either the tokenizer's EOS token.

    Args:
        folder: Of the model, with its tokenizer.
        more: Other tokens, as the tokenizer writes them, such as "<|im_end|>".

    Raises:
        OSError: If generation_config.json cannot be read.
        ValueError: If it is damaged, or naming what is no token of the tokenizer and the model.
    """
    vocabulary = folder.tokenizer.get_vocab()
    known = {id for id in vocabulary.values() if id < folder.config.vocab}
    source, own = _own(folder)
    lacking = [f"id {id} ({source})" for id in own if id not in known]
    lacking += [repr(token) for token in more if vocabulary.get(token) not in known]
    where = f"an end token must be one of the {len(known)} of the tokenizer in {folder.path}"
    refuse(f"{where}; mend what names another; got", lacking, inline=True)
    ends = np.zeros(folder.config.vocab, bool)
    ends[[*own, *(vocabulary[token] for token in more)]] = True
    return ends


def _own(folder: Folder) -> tuple[str, list[int]]:
    """The ids of a model's end tokens, and what names them."""
    for source, record in _records(folder):
        if record.get(KEY) is not None:
            return f"{KEY} of {source}", _ids(record[KEY], f"{KEY} of {folder.path / source}")
    eos = folder.tokenizer.eos_token_id
    return "EOS of the tokenizer", [eos] if isinstance(eos, int) else []


def _records(folder: Folder) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what may name the end tokens, the first word first."""
    file = folder.path / "generation_config.json"
    if file.is_file():
        yield file.name, _parsed(file)
    yield "config.json", folder.raw


def _parsed(file: Path) -> dict[str, Any]:
    refuse_pointer(file)
    try:
        record = json.loads(file.read_bytes())
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(record).__name__}")
    return record


def _ids(value: Any, where: str) -> list[int]:
    ids = value if isinstance(value, list) else [value]
    if not all(type(id) is int for id in ids):
        raise ValueError(f"{where} must be a token id or a list of them, got {value!r}")
    return ids
