"""Meshes whose axes XLA may shard along as it likes, whatever the caller's are."""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import Array


def automatic_mesh(mesh: Mesh) -> Mesh:
    """The same devices, with axes of type Auto; `jax.make_mesh` makes Explicit ones."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def automatic(array: Array) -> Array:
    """The same array, where it is, on `automatic_mesh`.

    Raises:
        ValueError: If it is traced on a mesh with Explicit axes, which only the caller can change.
    """
    if isinstance(array, Tracer):
        if AxisType.Explicit in jax.typeof(array).sharding.mesh.axis_types:
            raise ValueError(
                "under jax.jit, the axes of the states' mesh must be of type Auto (as those of "
                f"ilo_jax.sharding.make_mesh are), got {jax.typeof(array).sharding.mesh}"
            )
        return array
    if not isinstance(array, jax.Array) or not isinstance(array.sharding, NamedSharding):
        return array
    mesh = array.sharding.mesh
    assert isinstance(mesh, Mesh)  # Of an array with values, never an AbstractMesh.
    return jax.device_put(array, NamedSharding(automatic_mesh(mesh), array.sharding.spec))


def varying_like(array: Array, like: Array) -> Array:
    """The same array, of the type that a loop under the caller's `jax.shard_map` asks for."""
    # Chosen by a value that varies; XLA sees that nothing depends on it.
    return jnp.where(like.reshape(-1)[0] == jnp.zeros((), like.dtype), array, array)
