"""One mesh for everything, and how arrays lie on it."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed/tokens/embedding", ("vocab", "dim")),
    (r"embed/(positions|types)/embedding", (None, "dim")),
    (r"embed/project/kernel", (None, "dim")),
    (r"layers/\d+/attn/q/kernel", ("dim", "head")),
    (r"layers/\d+/attn/q/bias", ("head",)),
    (r"layers/\d+/attn/[kv]/kernel", ("dim", "kv")),
    (r"layers/\d+/attn/[kv]/bias", ("kv",)),
    (r"layers/\d+/attn/o/kernel", ("head", "dim")),
    (r"layers/\d+/mlp/(gate|up)/kernel", ("dim", "mlp")),
    (r"layers/\d+/mlp/(gate|up)/bias", ("mlp",)),
    (r"layers/\d+/mlp/down/kernel", ("mlp", "dim")),
    (r"head/out/kernel", ("dim", "vocab")),
    (r"head/(project|dense)/kernel", ("dim", None)),
    (r"head/bias", ("vocab",)),
    (r".*/(scale|bias)", ()),
)
"""Axes of every weight, by its path (full match, the first that fits).

An axis of `head`, `kv`, `mlp` or `vocab` is split over the mesh's "model" if as many
heads, and so on, as the model has divide evenly over it; else it is whole on every
device. Only a vocabulary that does not divide is made up for: its matrices are split
along `dim` instead. `dim` is split over "data" where asked for (FSDP). A `dim` that
does not divide is whole too.
"""

AnyMesh = Mesh | AbstractMesh


OVER_MODEL = ("head", "kv", "mlp", "vocab")


def make_mesh(
    *, data: int | None = None, model: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh ("data", "model") over devices, laid so that neighbours in it are joined.

    Args:
        data: Along which batches are split; None: all devices are used.
        model: Along which the weights are split.
        devices: Such as those of `ilo_jax.topologies`; None: of all processes.

    Raises:
        ValueError: If there are fewer devices than asked for, or some would be left without
            work that nobody left out: `model` does not divide them, and `data` is None; or if the
            way in which they are joined does not make such a mesh.
    """
    devices = jax.devices() if devices is None else devices
    if model < 1 or model > len(devices):
        raise ValueError(f"model must be in [1, {len(devices)}] here, got {model}")
    fitting = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
    if data is None and model not in fitting:
        raise ValueError(
            f"model must divide the {len(devices)} devices, or {len(devices) % model} of them "
            f"would be idle: one of {', '.join(map(str, fitting))}; got {model}"
        )
    most = len(devices) // model
    data = most if data is None else data
    if not 1 <= data <= most:
        raise ValueError(f"data must be in [1, {most}] here with model={model}, got {data}")
    mesh = _lay(data, model, devices)
    if mesh is None:
        whole = [(len(devices) // n, n) for n in fitting]
        meshes = [f"{rows} x {n}" for rows, n in whole if _lay(rows, n, devices)]
        raise ValueError(
            "the way in which the devices are joined must make the mesh of data x model: all "
            f"{len(devices)} make {', '.join(meshes)}; got {data} x {model}"
        )
    return mesh


def _lay(data: int, model: int, devices: Sequence[Any]) -> Mesh | None:
    try:
        return jax.make_mesh(
            (data, model),
            ("data", "model"),
            axis_types=(AxisType.Auto, AxisType.Auto),
            devices=devices[: data * model],
        )
    except (AssertionError, NotImplementedError):  # by which JAX says that TPUs do not
        return None


def replicated(mesh: AnyMesh) -> NamedSharding:
    """The sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def along_data(mesh: AnyMesh, *, axis: int = 0) -> NamedSharding:
    """The sharding that splits one axis of an array over "data"."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def place_whole(arrays: Any, sharding: NamedSharding) -> Any:
    """Put host arrays, which every process has whole, on the devices of a mesh.

    Args:
        arrays: Any pytree of NumPy arrays.
        sharding: Of each of them.
    """
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, sharding, array.__getitem__), arrays
    )


def place_own(arrays: Any, sharding: NamedSharding) -> Any:
    """Put host arrays on the devices of a mesh, of which this process has its own devices' part.

    Args:
        arrays: Any pytree of NumPy arrays, as long as the part is along the axis that is split.
        sharding: Of each array of all processes.
    """
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), arrays)


def place_loose(arrays: Any, mesh: Mesh) -> Any:
    """Put what does not lie on the devices of a mesh whole on each of them.

    Args:
        arrays: Any pytree of arrays, on the host or devices; those on the mesh stay as they are.
        mesh: Of all processes, each of which has every other array whole.
    """
    devices = {*mesh.devices.flat}
    return jax.tree.map(partial(_on_mesh, mesh=mesh, devices=devices), arrays)


def _on_mesh(array: Any, *, mesh: Mesh, devices: set[Any]) -> jax.Array:
    if isinstance(array, jax.Array):
        if array.sharding.device_set == devices:
            return array
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = _on_mesh(jax.random.key_data(array), mesh=mesh, devices=devices)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    # A copy, for a device may keep an array that lies as it needs it.
    return place_whole(np.array(array), replicated(mesh))


def device_bytes(arrays: Any) -> int:
    """Bytes that arrays take of each device on which they lie.

    Args:
        arrays: Any pytree of arrays, or of shapes with shardings in their place, which divide them
            evenly.
    """
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in jax.tree.leaves(arrays)
    )


@contextmanager
def naming_knobs(what: str, knobs: str) -> Iterator[None]:
    """Say what was too much for the memory of a device, and what to try.

    Raises:
        MemoryError: Instead of JAX's own error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"too little device memory for {what}; try {knobs}: {error}") from error


def unsplit(mesh: AnyMesh, counts: Mapping[str, int]) -> dict[str, int]:
    """The axes, and their counts, that do not divide over "model" and stay whole."""
    return {axis: n for axis, n in counts.items() if n % mesh.shape["model"]}


def _ways(mesh: AnyMesh, names: tuple[str, ...]) -> int:
    return math.prod(mesh.shape[name] for name in names)


def weight_sharding(
    path: str, shape: tuple[int, ...], mesh: AnyMesh, *, counts: Mapping[str, int], fsdp: bool
) -> NamedSharding:
    """How the weight at a path lies on the mesh, by `RULES`.

    Args:
        path: Such as "layers/3/attn/q/kernel".
        shape: Of the weight.
        mesh: With axes "data" and "model".
        counts: How many `head`, `kv`, `mlp` and `vocab` the model has.
        fsdp: Whether to split `dim` over "data".

    Raises:
        ValueError: If no rule is for the path.
    """
    axes = next((axes for pattern, axes in RULES if re.fullmatch(pattern, path)), None)
    if axes is None:
        raise ValueError(f"no rule of sharding.RULES fits the weight {path}")
    whole = unsplit(mesh, counts)

    instead = "vocab" in axes and "vocab" in whole

    def over(axis: str | None, size: int) -> tuple[str, ...]:
        if axis in OVER_MODEL:
            return () if axis in whole else ("model",)
        if axis != "dim":
            return ()
        names = ("data",) * fsdp + ("model",) * instead
        fitting = (n for n in (names, names[1:], names[:1]) if size % _ways(mesh, n) == 0)
        return next(fitting, ())

    spec = [over(axis, size) for axis, size in zip(axes, shape, strict=True)] if axes else []
    return NamedSharding(mesh, PartitionSpec(*(names or None for names in spec)))
