"""A model written as a Hugging Face folder: one that was loaded, changed, or made from scratch."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ilo_jax.models import parameters
from ilo_jax.models.hub.checkpoint import write_tensors
from ilo_jax.models.hub.families import family_of
from ilo_jax.models.hub.families.writing import config_of
from ilo_jax.models.hub.placement import Source, by_tensor, join, sources, without_prefix
from ilo_jax.models.hub.repository import CARRIED, matching
from ilo_jax.models.hub.tokenizer import tokenizer_files
from ilo_jax.models.parameters import Weights
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import together


def save(
    model: Transformer,
    folder: str | Path,
    *,
    raw: Mapping[str, Any],
    beside: Path | None = None,
    file_bytes: int = 4 * 2**30,
) -> None:
    """Write a model as a Hugging Face folder, for `transformers` or `load`.

    Weights are written in the dtype they have, under the names that the family of `raw` has
    today; what `load` named as not used is left out. All processes must call it; the first
    writes, into a folder beside, which takes its name when it is whole.

    Args:
        model: Whose weights may lie on a mesh.
        folder: To be made; its parent must be there.
        raw: A config.json of the model, parsed: that of the folder it was loaded from
            (`Folder.raw`), or the one that it was made from. What it says of the vocabulary's
            size, of the head (tied, own or none, by its architecture's name) and of dtype is
            brought up to the model's.
        beside: A folder whose tokenizer, settings of generation and licences are carried
            along; None: none are.
        file_bytes: In one safetensors file at most; as much is held in host memory.

    Raises:
        FileExistsError: If the folder is there already.
        FileNotFoundError: If the folder has no parent.
        RuntimeError: If another process could not.
        ValueError: If `raw` is not of this model.
        OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    # Named before anything is written, so that it goes if any process fails.
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    first = jax.process_index() == 0
    arrays = parameters.weights(model)
    dtype = str(next(iter(arrays.values())).dtype)
    try:
        written = together(
            lambda: _begin(config_of(model.config, raw, dtype=dtype), folder, partial),
            what=f"saving {folder}",
        )
        _write_weights(arrays, _saved(raw, model, arrays), partial if first else None, file_bytes)
        together(lambda: _finish(written, beside, partial, folder), what=f"saving {folder}")
    except BaseException:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _begin(config: dict[str, Any], folder: Path, partial: Path) -> dict[str, Any]:
    """Make the folder to write into, by the first process; return what config.json will be."""
    if jax.process_index() > 0:
        return config
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} is there already; save to a new folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"no folder {folder.parent} to save {folder.name} in")
    partial.mkdir()
    return config


def _write_weights(
    arrays: Weights, found: Mapping[str, Source], partial: Path | None, file_bytes: int
) -> None:
    parts = by_tensor(found)

    def fused(tensor: str) -> np.ndarray:
        return join({path: _whole(arrays[path]) for path in parts[tensor]}, parts[tensor])

    sizes = {t: sum(arrays[path].nbytes for path in part) for t, part in parts.items()}
    write_tensors(partial, sizes, fused, most=file_bytes)


def _finish(config: dict[str, Any], beside: Path | None, partial: Path, folder: Path) -> None:
    """Add config.json and what is carried along, and give the folder its name."""
    if jax.process_index() > 0:
        return
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (partial / "config.json").write_text(text)
    if beside is not None:
        _carry(beside, partial)
    partial.rename(folder)


def _carry(beside: Path, partial: Path) -> None:
    """Copy what is not made anew of what belongs to a model."""
    for file in {*tokenizer_files(beside), *matching(beside, CARRIED)}:
        copy = partial / file.relative_to(beside)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)


def _saved(
    raw: Mapping[str, Any], model: Transformer, arrays: Mapping[str, jax.Array]
) -> dict[str, Source]:
    family = family_of(raw)
    found = sources(family, model.config, {path: a.shape for path, a in arrays.items()})
    return without_prefix(found, family) if model.config.head.kind == "none" else found


def _whole(array: jax.Array) -> np.ndarray:
    """All of an array on the host, wherever its shards are."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
