"""A model out of a Hugging Face folder."""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from tqdm import tqdm

from ilo_jax.models import parameters
from ilo_jax.models.hub.checkpoint import Mapped, tensor_files
from ilo_jax.models.hub.folder import Folder
from ilo_jax.models.hub.placement import Index, Source, account, refuse_other_head, sources
from ilo_jax.models.hub.wrapped import refuse_wrapped
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import agree, in_order, together
from ilo_jax.refusals import listed
from ilo_jax.sharding import naming_knobs, unsplit

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
"""In which a model may be held."""

KNOBS = (
    "bfloat16 weights (param_dtype or dtype=bfloat16), or more devices to split them over "
    "(model_parallel, fsdp)"
)
"""What to change where the memory of the devices is short."""


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _place(
    file: Mapped, source: Source, like: jax.ShapeDtypeStruct, sharding: NamedSharding
) -> jax.Array:
    """One weight on its devices, each distinct shard read once."""
    tensor = file.tensor(source.tensor)
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
    folder: Folder, *, mesh: Mesh, fsdp: bool = False, dtype: DTypeLike = jnp.float32
) -> Transformer:
    """The model of a folder, its weights cast to `dtype` and placed on a mesh.

    Weights stream tensor by tensor from the files to the devices. All processes of the
    mesh must call it, and each reads only what its own devices hold. What the family
    declares as derived or unused is named in the log.

    Args:
        folder: With *.safetensors (single, or sharded with an index); see `open_folder`.
        mesh: With axes "data" and "model"; `ilo_jax.sharding.RULES` says how weights lie.
        fsdp: Whether weights are also split over "data".
        dtype: Of the weights and of the computation: float32, bfloat16 or float16.

    Raises:
        FileNotFoundError: If a file is absent, or only pickled weights are there.
        MemoryError: If the devices cannot hold the weights.
        RuntimeError: If another process could not, or has another model in its folder.
        ValueError: For a tensor that is missing, unexpected, misshapen or not finite; for a
            damaged file; for another dtype.
    """
    opened = together(lambda: _open(folder, mesh, dtype), what=f"opening {folder.path}")
    agree(opened.digest, what=f"the model in {folder.path}")
    model = opened.model
    if whole := unsplit(mesh, model.config.axis_counts):
        log.info("not split over %d devices, as they do not divide: %s", mesh.shape["model"], whole)
    with naming_knobs(f"the weights in {folder.path}", KNOBS):
        arrays = _place_all(opened, parameters.shardings(model, mesh, fsdp=fsdp))
    parameters.put(model, arrays)
    return model


class _Opened(NamedTuple):
    """A model folder that was found in order, no weight read yet."""

    model: Transformer
    """Shapes in place of weights."""
    found: dict[str, Source]
    files: dict[str, Mapped]
    """File of every tensor."""
    digest: bytes
    """Digest of config.json, of what the files hold where, and of a few bytes of every tensor."""


def _open(folder: Folder, mesh: Mesh, dtype: DTypeLike) -> _Opened:
    """The folder with every tensor accounted for."""
    if jnp.dtype(dtype).name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {jnp.dtype(dtype).name}")
    config, family = folder.config, folder.family
    model = parameters.abstract(config, dtype=dtype, mesh=mesh)
    tensors = tensor_files(folder.path)
    mapped = {file: Mapped(file) for file in dict.fromkeys(tensors.values())}
    files = {tensor: mapped[file] for tensor, file in tensors.items()}
    shapes = {path: like.shape for path, like in parameters.shapes(model).items()}
    try:
        refuse_wrapped(tensors, family)
        found, ignored = account(
            sources(family, config, shapes), family, tensors, head=config.head.kind
        )
        refuse_other_head(found, family, files, head=config.head.kind)
    except ValueError as error:
        raise ValueError(
            f"the weights in {folder.path} do not fit its config.json: {error}"
        ) from error
    _refuse_misfits(found, files, shapes)
    if ignored:
        log.info("not used: %s", ", ".join(ignored))
    digest = hashlib.sha256(json.dumps(folder.raw, sort_keys=True).encode())
    for file in mapped.values():
        digest.update(file.sample())
    return _Opened(model, found, files, digest.digest())


def _refuse_misfits(
    found: Mapping[str, Source],
    files: Mapping[str, Mapped],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Stop at tensors that are no weights, or of another shape; nothing but headers is read."""
    expected = {source.tensor: source.shape(shapes[path]) for path, source in found.items()}
    misfits = (files[name].misfit(name, shape) for name, shape in expected.items())
    if problems := [problem for problem in misfits if problem]:
        raise ValueError(listed(problems, separator="; "))


def _place_all(opened: _Opened, lies: Mapping[str, NamedSharding]) -> dict[str, jax.Array]:
    """Every weight on its devices, all of them finite."""
    placed, finite = {}, {}
    likes = parameters.shapes(opened.model)
    for path, like in tqdm(likes.items(), desc="loading", unit="weight", disable=None):
        source = opened.found[path]
        placed[path] = _place(opened.files[source.tensor], source, like, lies[path])
        finite[path] = in_order(_all_finite(placed[path]))
    broken = dict.fromkeys(opened.found[path].tensor for path, fine in finite.items() if not fine)
    if broken:
        folder = next(iter(opened.files.values())).file.parent
        raise ValueError(f"NaN or infinite weights in {folder}: {', '.join(broken)}")
    return placed
