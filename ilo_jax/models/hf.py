"""Hugging Face folders in: config, tokenizer, and every weight of the safetensors placed."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from tqdm import tqdm

from ilo_jax.models import parameters
from ilo_jax.models.checkpoint import Mapped, tensor_files, write_tensors
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.families import family_of, read_config
from ilo_jax.models.placement import (
    Index,
    Source,
    account,
    by_tensor,
    join,
    sources,
    without_prefix,
)
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import unsplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

TOKENIZER = ["tokenizer*", "*.model", "special_tokens_map.json", "added_tokens.json"]
TOKENIZER += ["vocab.json", "vocab.txt", "merges.txt"]
FETCHED = ["config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER]
"""All that is ever fetched of a repository, and all that decides a hidden state."""
CARRIED = [*TOKENIZER, "generation_config.json", "chat_template*", "LICENSE*", "NOTICE*"]
"""What a saved model takes over from the folder it came from, as it is."""


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


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({f for pattern in patterns for f in folder.glob(pattern) if f.is_file()})


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that decides a hidden state, by name."""
    digests = {}
    for file in _files(folder, FETCHED):
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
    """Return the folder's tokenizer, by `transformers`; no code of the folder is run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


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
    folder: Path, *, mesh: Mesh, fsdp: bool = False, dtype: DTypeLike = jnp.float32
) -> Transformer:
    """Return the model of a folder, its weights cast to `dtype` and placed on a mesh.

    Weights stream tensor by tensor from the files to the devices, and every process
    reads only what its own devices hold. What the family declares as derived or
    unused is named in the log.

    Args:
        folder: with config.json and *.safetensors (single, or sharded with an index).
        mesh: with axes "data" and "model"; `ilo_jax.sharding.RULES` says how weights lie.
        fsdp: whether weights are also split over "data".
        dtype: of the weights and of the computation.

    Raises:
        FileNotFoundError: if a file is absent, or only pickled weights are there.
        ValueError: for a configuration that we do not read; for a tensor that is
            missing, unexpected, misshapen or not finite; for a damaged file.
    """
    config = folder_config(folder)
    model = parameters.abstract(config, dtype=dtype)
    tensors = tensor_files(folder)
    found = _sources(folder, model, tensors)
    if whole := unsplit(mesh, parameters.axis_counts(config)):
        log.info("not split over %d devices, as they do not divide: %s", mesh.shape["model"], whole)
    lies = parameters.shardings(model, mesh, fsdp=fsdp)
    files = {file: Mapped(file) for file in set(tensors.values())}
    placed, finite = {}, {}
    likes = parameters.shapes(model)
    for path, like in tqdm(likes.items(), desc="loading", unit="weight", disable=None):
        source = found[path]
        placed[path] = _place(files[tensors[source.tensor]], source, like, lies[path])
        finite[path] = _all_finite(placed[path])
    broken = dict.fromkeys(found[path].tensor for path, fine in finite.items() if not fine)
    if broken:
        raise ValueError(f"NaN or infinite weights in {folder}: {', '.join(broken)}")
    parameters.put(model, placed)
    return model


def _sources(folder: Path, model: Transformer, tensors: Mapping[str, Path]) -> dict[str, Source]:
    """Return where each weight is, every tensor of the folder accounted for."""
    family = family_of(raw_config(folder))
    shapes = {path: like.shape for path, like in parameters.shapes(model).items()}
    expected = sources(family, model.config, shapes)
    try:
        found, ignored = account(expected, family, tensors, head=model.config.head.kind)
    except ValueError as error:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {error}") from error
    if ignored:
        log.info("not used: %s", ", ".join(ignored))
    return found


def save(model: Transformer, folder: Path, *, like: Path, file_bytes: int = 4 * 2**30) -> None:
    """Write a model back as a Hugging Face folder, for `transformers` or `load`.

    Weights are written in the dtype they have, under the names that `like`'s family
    has today; config.json and the tokenizer are carried along from there, and what
    `load` named as not used is left out. All processes must call it; the first writes.

    Args:
        model: whose weights may lie on a mesh.
        folder: to be made; its parent must be there.
        like: the folder that the model was loaded from.
        file_bytes: in one safetensors file at most; as much is held in host memory.

    Raises:
        FileExistsError: if the folder is there already.
        FileNotFoundError: if `like` has no config.json.
        ValueError: if `like` is not a folder of this model.
        OSError: if the folder cannot be written.
    """
    if folder_config(like) != model.config:
        raise ValueError(f"the model to be saved is not of the configuration in {like}")
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; save to a new folder")
    arrays = parameters.weights(model)
    parts = by_tensor(_saved(like, model, arrays))
    partial = folder.with_name(f".{folder.name}.partial")
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()

    def fused(tensor: str) -> np.ndarray:
        return join({path: _whole(arrays[path]) for path in parts[tensor]}, parts[tensor])

    sizes = {t: sum(arrays[path].nbytes for path in part) for t, part in parts.items()}
    write_tensors(partial, sizes, fused, most=file_bytes, write=first)
    if first:
        _carry_along(like, partial, dtype=next(iter(arrays.values())).dtype)
        partial.rename(folder)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"saved {folder}")


def _saved(like: Path, model: Transformer, arrays: Mapping[str, jax.Array]) -> dict[str, Source]:
    family = family_of(raw_config(like))
    found = sources(family, model.config, {path: a.shape for path, a in arrays.items()})
    return without_prefix(found, family) if model.config.head.kind == "none" else found


def _whole(array: jax.Array) -> np.ndarray:
    """Return all of an array on the host, wherever its shards are."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _carry_along(like: Path, folder: Path, *, dtype: np.dtype) -> None:
    """Copy config.json, with the dtype of the weights, and all but the weights."""
    raw = {key: value for key, value in raw_config(like).items() if key != "torch_dtype"}
    text = json.dumps(raw | {"dtype": str(dtype)}, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n")
    for file in _files(like, CARRIED):
        shutil.copyfile(file, folder / file.name)
