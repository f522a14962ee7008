"""Hugging Face folders in: config, tokenizer, and every weight of the safetensors placed."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from ilo_jax.models.config import Config, DecoderConfig
from ilo_jax.models.decoder import Decoder
from ilo_jax.models.encoder import Encoder
from ilo_jax.models.families import family_of, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Model = Decoder | Encoder

log = logging.getLogger(__name__)

FETCHED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "*.model"]
FETCHED += ["special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"]
"""All that is ever fetched of a repository, and all that decides a hidden state."""


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


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that decides a hidden state, by name."""
    files = sorted({f for pattern in FETCHED for f in folder.glob(pattern) if f.is_file()})
    digests = {}
    for file in files:
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


def folder_config(folder: Path) -> Config:
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


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder.

    Raises:
        FileNotFoundError: if there are none, or the index names one that is absent.
        ValueError: if the index is damaged, or names files of other folders.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted({
                folder / n for n in json.loads(index.read_text())["weight_map"].values()
            })
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{index} is damaged, it must map tensors to files: {error!r}"
            ) from error
    else:
        files = sorted(folder.glob("*.safetensors"))
    if outside := [str(file) for file in files if file.parent != folder]:
        raise ValueError(f"{index} must name files beside it, got {', '.join(outside)}")
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names files that are not there: {', '.join(absent)}")
    if files:
        return files
    pickled = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern))
    hint = (
        f"; {', '.join(pickled)} may run code when opened and is not read: convert it with "
        "transformers' AutoModel.from_pretrained(...).save_pretrained(...)"
    )
    raise FileNotFoundError(f"no *.safetensors in {folder}{hint if pickled else ''}")


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return which file holds each tensor.

    Raises:
        ValueError: for a file that is truncated or not safetensors, or a tensor that
            two files hold.
    """
    where: dict[str, Path] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="numpy") as tensors:
                names = list(tensors.keys())
        except SafetensorError as error:
            raise ValueError(f"{file} is truncated or not safetensors: {error}") from error
        if twice := sorted(set(names) & set(where)):
            raise ValueError(f"{file} and {where[twice[0]]} both hold {', '.join(twice)}")
        where |= dict.fromkeys(names, file)
    return where


def _placement(folder: Path, config: Config, tensors: Mapping[str, Path]) -> dict[str, str]:
    """Return our path -> the checkpoint's tensor, every tensor accounted for."""
    family = family_of(raw_config(folder))
    wanted = family.weights(config)
    bare = not any(name in tensors for name in wanted.values() if name.startswith(family.prefix))
    if bare:
        wanted = {path: name.removeprefix(family.prefix) for path, name in wanted.items()}
    missing = sorted(set(wanted.values()) - set(tensors))
    spare = sorted(set(tensors) - set(wanted.values()))
    patterns = family.ignored(config)
    ignored = [name for name in spare if any(re.fullmatch(p, name) for p in patterns)]
    unexpected = sorted(set(spare) - set(ignored))
    if missing or unexpected:
        raise ValueError(
            f"the weights in {folder} do not fit its config.json: missing {missing or 'none'}, "
            f"unexpected {unexpected or 'none'}"
        )
    if ignored:
        log.info("not used: %s", ", ".join(ignored))
    return wanted


def _place(
    file: Path, name: str, like: jax.ShapeDtypeStruct, sharding: NamedSharding, *, transpose: bool
) -> jax.Array:
    """Return one tensor on its devices, each distinct shard read once."""
    blocks: dict[str, np.ndarray] = {}

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        if str(index) not in blocks:
            block = tensors.get_slice(name)[index[::-1] if transpose else index]
            blocks[str(index)] = (block.T if transpose else block).astype(like.dtype)
        return blocks[str(index)]

    with safe_open(file, framework="numpy") as tensors:
        shape = tuple(tensors.get_slice(name).get_shape())
        if (shape[::-1] if transpose else shape) != like.shape:
            expected = like.shape[::-1] if transpose else like.shape
            raise ValueError(f"{name} in {file} must have shape {expected}, got {shape}")
        return jax.make_array_from_callback(like.shape, sharding, read)


def build(config: Config, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Model:
    """Return a randomly initialised model of a configuration."""
    if isinstance(config, DecoderConfig):
        return Decoder(config, dtype=dtype, rngs=rngs)
    return Encoder(config, dtype=dtype, rngs=rngs)


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def load(folder: Path, *, sharding: NamedSharding, dtype: DTypeLike = jnp.float32) -> Model:
    """Return the model of a folder, its weights cast to `dtype` and placed.

    Weights stream tensor by tensor from the files to the devices; what the family
    declares as derived or unused is named in the log.

    Args:
        folder: with config.json and *.safetensors (single, or sharded with an index).
        sharding: of every weight.
        dtype: of the weights and of the computation.

    Raises:
        FileNotFoundError: if a file is absent, or only pickled weights are there.
        ValueError: for a configuration that we do not read; for a tensor that is
            missing, unexpected, misshapen or not finite; for a damaged file.
    """
    config = folder_config(folder)
    abstract = nnx.eval_shape(lambda: build(config, dtype=dtype, rngs=nnx.Rngs(0)))
    tensors = tensor_files(folder)
    names = _placement(folder, config, tensors)
    finite, flat = {}, []
    for keys, variable in nnx.to_flat_state(nnx.state(abstract, nnx.Param)):
        name = names["/".join(map(str, keys))]
        transpose = keys[-1] == "kernel"
        array = _place(tensors[name], name, variable.get_value(), sharding, transpose=transpose)
        finite[name] = _all_finite(array)
        flat.append((keys, variable.replace(array)))
    if broken := [name for name, fine in finite.items() if not fine]:
        raise ValueError(f"NaN or infinite weights in {folder}: {', '.join(broken)}")
    nnx.update(abstract, nnx.from_flat_state(flat))
    return abstract
