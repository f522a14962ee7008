"""The two kinds of feed-forward layer."""

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.models.config import MlpConfig
from ilo_jax.models.layers.linear import linear, visited
from ilo_jax.models.sites import LayerVisit, passing

_tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
"""Named as Hugging Face names them; its "gelu" is the exact one, the others the tanh form."""


class Mlp(nnx.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where gated."""

    def __init__(self, config: MlpConfig, *, dim: int, dtype: DTypeLike, rngs: nnx.Rngs):
        layer = functools.partial(linear, bias=config.bias, dtype=dtype, rngs=rngs)
        self.activation = config.activation
        self.gate = layer(dim, config.dim) if config.gated else None
        self.up = layer(dim, config.dim)
        self.down = layer(config.dim, dim)

    def __call__(
        self, hidden: Float[Array, "batch seq dim"], visit: LayerVisit = passing
    ) -> Float[Array, "batch seq dim"]:
        """The block's update of the residual stream, a linear function of its neurons."""
        activate = ACTIVATIONS[self.activation]
        up = visited(self.up, "mlp/up", hidden, visit)
        if self.gate is None:
            neurons = activate(up)
        else:
            neurons = activate(visited(self.gate, "mlp/gate", hidden, visit)) * up
        return visited(self.down, "mlp/down", visit("neurons", neurons), visit)
