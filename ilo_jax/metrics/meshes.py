"""Meshes whose axes XLA may shard along as it likes, whatever the caller's are."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import Array


def automatic_mesh(mesh: Mesh) -> Mesh:
    """The same devices, with axes of type Auto; `jax.make_mesh` makes Explicit ones."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def automatic(array: Array) -> Array:
    """The same array, where it is, on `automatic_mesh`; unchanged while it is traced."""
    if isinstance(array, jax.core.Tracer) or not isinstance(array, jax.Array):
        return array
    if not isinstance(array.sharding, NamedSharding):
        return array
    mesh = automatic_mesh(array.sharding.mesh)
    return jax.device_put(array, NamedSharding(mesh, array.sharding.spec))
