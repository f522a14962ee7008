"""One mesh for everything, and how arrays lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: int | None = None) -> Mesh:
    """Return the mesh ("data", "model") with every device along "data".

    Args:
        devices: how many of this process's devices to use; all of them if None.

    Raises:
        ValueError: if there are fewer devices than asked for.
    """
    available = jax.local_devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise ValueError(f"devices must be in [1, {len(available)}] here, got {count}")
    grid = np.array(available[:count]).reshape(count, 1)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def along_data(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits one axis of an array over "data"."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
