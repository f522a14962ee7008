"""Models out of Hugging Face folders, and back into them."""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from tqdm import tqdm

from ilo_jax.models import parameters
from ilo_jax.models.hub.checkpoint import Mapped, tensor_files, write_tensors
from ilo_jax.models.hub.families import family_of
from ilo_jax.models.hub.placement import (
    Index,
    Source,
    account,
    by_tensor,
    join,
    refuse_other_head,
    sources,
    without_prefix,
)
from ilo_jax.models.hub.repository import TOKENIZER, folder_config, matching, raw_config
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import agree, together
from ilo_jax.sharding import unsplit

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
"""In which a model may be held."""
CARRIED = [*TOKENIZER, "generation_config.json", "chat_template*", "LICENSE*", "NOTICE*"]
"""What a saved model takes over from the folder it came from, as it is."""


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _place(
    file: Mapped, source: Source, like: jax.ShapeDtypeStruct, sharding: NamedSharding
) -> jax.Array:
    """Return one weight on its devices, each distinct shard read once."""
    tensor, expected = file.tensor(source.tensor), source.shape(like.shape)
    if tensor.shape != expected:
        raise ValueError(
            f"{source.tensor} in {file.file} must have shape {expected}, got {tensor.shape}"
        )
    blocks: dict[str, np.ndarray] = {}

    def read(index: Index | None) -> np.ndarray:
        assert index is not None
        bounds = [part.indices(size) for part, size in zip(index, like.shape, strict=True)]
        ours = tuple(slice(start, stop) for start, stop, _ in bounds)
        if str(ours) not in blocks:
            block = source.read(tensor, ours)
            # A device may keep an array that lies as it needs it, and must not keep the file's.
            blocks[str(ours)] = block.astype(like.dtype, copy=block.flags.c_contiguous)
        return blocks[str(ours)]

    return jax.make_array_from_callback(like.shape, sharding, read)


def load(
    folder: str | Path, *, mesh: Mesh, fsdp: bool = False, dtype: DTypeLike = jnp.float32
) -> Transformer:
    """Return the model of a folder, its weights cast to `dtype` and placed on a mesh.

    Weights stream tensor by tensor from the files to the devices. All processes of the
    mesh must call it, and each reads only what its own devices hold. What the family
    declares as derived or unused is named in the log.

    Args:
        folder: with config.json and *.safetensors (single, or sharded with an index);
            `repository.resolve` finds that of a hub id.
        mesh: with axes "data" and "model"; `ilo_jax.sharding.RULES` says how weights lie.
        fsdp: whether weights are also split over "data".
        dtype: of the weights and of the computation: float32, bfloat16 or float16.

    Raises:
        FileNotFoundError: if a file is absent, or only pickled weights are there.
        RuntimeError: if another process could not, or has another model in its folder.
        ValueError: for a configuration that we do not read; for a tensor that is
            missing, unexpected, misshapen or not finite; for a damaged file; for
            another dtype.
    """
    opened = together(lambda: _open(Path(folder), dtype), what=f"opening {folder}")
    agree(opened.digest, what=f"the model in {folder}")
    model = opened.model
    if whole := unsplit(mesh, parameters.axis_counts(model.config)):
        log.info("not split over %d devices, as they do not divide: %s", mesh.shape["model"], whole)
    arrays = _place_all(opened, parameters.shardings(model, mesh, fsdp=fsdp))
    parameters.put(model, arrays)
    model.mesh = mesh
    return model


class _Opened(NamedTuple):
    """A model folder that was found in order, no weight read yet."""

    model: Transformer
    """Shapes in place of weights."""
    found: dict[str, Source]
    files: dict[str, Mapped]
    """Of every tensor."""
    digest: bytes
    """Of config.json, of what the files hold where, and of a few bytes of every tensor."""


def _open(folder: Path, dtype: DTypeLike) -> _Opened:
    """Return the folder with every tensor accounted for."""
    if jnp.dtype(dtype).name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {jnp.dtype(dtype).name}")
    raw, config = raw_config(folder), folder_config(folder)
    model = parameters.abstract(config, dtype=dtype)
    tensors = tensor_files(folder)
    mapped = {file: Mapped(file) for file in dict.fromkeys(tensors.values())}
    files = {tensor: mapped[file] for tensor, file in tensors.items()}
    family = family_of(raw)
    shapes = {path: like.shape for path, like in parameters.shapes(model).items()}
    try:
        found, ignored = account(
            sources(family, config, shapes), family, tensors, head=config.head.kind
        )
        refuse_other_head(found, family, files, head=config.head.kind)
    except ValueError as error:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {error}") from error
    if ignored:
        log.info("not used: %s", ", ".join(ignored))
    digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode())
    for file in mapped.values():
        digest.update(file.sample())
    return _Opened(model, found, files, digest.digest())


def _place_all(opened: _Opened, lies: Mapping[str, NamedSharding]) -> dict[str, jax.Array]:
    """Return every weight on its devices, all of them finite."""
    placed, finite = {}, {}
    likes = parameters.shapes(opened.model)
    for path, like in tqdm(likes.items(), desc="loading", unit="weight", disable=None):
        source = opened.found[path]
        placed[path] = _place(opened.files[source.tensor], source, like, lies[path])
        finite[path] = _all_finite(placed[path])
    broken = dict.fromkeys(opened.found[path].tensor for path, fine in finite.items() if not fine)
    if broken:
        folder = next(iter(opened.files.values())).file.parent
        raise ValueError(f"NaN or infinite weights in {folder}: {', '.join(broken)}")
    return placed


def save(
    model: Transformer, folder: str | Path, *, like: str | Path, file_bytes: int = 4 * 2**30
) -> None:
    """Write a model back as a Hugging Face folder, for `transformers` or `load`.

    Weights are written in the dtype they have, under the names that `like`'s family
    has today; config.json and the tokenizer are carried along from there, and what
    `load` named as not used is left out. All processes must call it; the first writes,
    into a folder beside, which takes its name when it is whole.

    Args:
        model: whose weights may lie on a mesh.
        folder: to be made; its parent must be there.
        like: the folder that the model was loaded from.
        file_bytes: in one safetensors file at most; as much is held in host memory.

    Raises:
        FileExistsError: if the folder is there already.
        FileNotFoundError: if `like` has no config.json, or the folder no parent.
        RuntimeError: if another process could not.
        ValueError: if `like` is not a folder of this model.
        OSError: if the folder cannot be written.
    """
    folder, like = Path(folder), Path(like)
    partial = together(lambda: _begin(model, folder, like), what=f"saving {folder}")
    try:
        arrays = parameters.weights(model)
        parts = by_tensor(_saved(like, model, arrays))

        def fused(tensor: str) -> np.ndarray:
            return join({path: _whole(arrays[path]) for path in parts[tensor]}, parts[tensor])

        sizes = {t: sum(arrays[path].nbytes for path in part) for t, part in parts.items()}
        write_tensors(partial, sizes, fused, most=file_bytes)
        together(lambda: _finish(model, folder, like, partial), what=f"saving {folder}")
    except BaseException:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _begin(model: Transformer, folder: Path, like: Path) -> Path | None:
    """Return the folder to write into; only the first process makes one."""
    if folder_config(like) != model.config:
        raise ValueError(f"the model to be saved is not of the configuration in {like}")
    if jax.process_index() > 0:
        return None
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} is there already; save to a new folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"no folder {folder.parent} to save {folder.name} in")
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir()
    return partial


def _finish(model: Transformer, folder: Path, like: Path, partial: Path | None) -> None:
    """Add config.json and the tokenizer, and give the folder its name."""
    if partial is None:
        return
    raw = {k: v for k, v in raw_config(like).items() if k not in {"torch_dtype", "auto_map"}}
    raw["dtype"] = str(next(iter(parameters.weights(model).values())).dtype)
    if model.config.head.kind == "none" and raw.get("architectures"):
        raw["architectures"] = [re.sub(r"For\w+$", "Model", n) for n in raw["architectures"]]
    (partial / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
    for file in matching(like, CARRIED):
        shutil.copyfile(file, partial / file.name)
    partial.rename(folder)


def _saved(like: Path, model: Transformer, arrays: Mapping[str, jax.Array]) -> dict[str, Source]:
    family = family_of(raw_config(like))
    found = sources(family, model.config, {path: a.shape for path, a in arrays.items()})
    return without_prefix(found, family) if model.config.head.kind == "none" else found


def _whole(array: jax.Array) -> np.ndarray:
    """Return all of an array on the host, wherever its shards are."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
