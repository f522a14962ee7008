"""The two kinds of feed-forward layer."""

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.models.attention import matmul_precision

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
}
"""Named as Hugging Face names them; its "gelu" is the exact one."""


class Mlp(nnx.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where gated."""

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        activation: str,
        gated: bool,
        bias: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        linear = functools.partial(
            nnx.Linear,
            use_bias=bias,
            dtype=dtype,
            param_dtype=dtype,
            precision=matmul_precision(dtype),
            rngs=rngs,
        )
        self.activation = activation
        self.gate = linear(dim, hidden_dim) if gated else None
        self.up = linear(dim, hidden_dim)
        self.down = linear(hidden_dim, dim)

    def __call__(self, hidden: Float[Array, "batch seq dim"]) -> Float[Array, "batch seq dim"]:
        """Return the block's update of the residual stream."""
        activate = ACTIVATIONS[self.activation]
        if self.gate is None:
            return self.down(activate(self.up(hidden)))
        return self.down(activate(self.gate(hidden)) * self.up(hidden))
