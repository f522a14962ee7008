"""The matrix product of every layer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.models.sites import LayerVisit


def matmul_precision(dtype: DTypeLike) -> jax.lax.Precision:
    """The precision that keeps float32 products float32 on every backend."""
    exact = jnp.dtype(dtype) == jnp.float32
    return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT


def linear(
    inputs: int, outputs: int, *, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
    """A layer that computes in the dtype of its weights."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        param_dtype=dtype,
        precision=matmul_precision(dtype),
        rngs=rngs,
    )


def visited(
    layer: nnx.Linear, name: str, inputs: Float[Array, "*rest width"], visit: LayerVisit
) -> Float[Array, "*rest out"]:
    """What a layer makes of its inputs, both ends being sites.

    Args:
        layer: To apply.
        name: Of the map, such as "attn/q".
        inputs: Of the layer.
        visit: Called at NAME/input and NAME/output.
    """
    return visit(f"{name}/output", layer(visit(f"{name}/input", inputs)))
