"""LayerNorm and RMSNorm in one: with or without mean, bias, weights, and weights from one."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.models.config import Norm


class Normalize(nnx.Module):
    """Normalisation over the last axis, computed in float32 whatever the dtype.

    Source: Ba et al. 2016 ("layer"), Zhang and Sennrich 2019 ("rms").
    """

    def __init__(self, config: Norm, shape: int | tuple[int, ...], *, dtype: DTypeLike):
        self.config = config
        start = jnp.zeros if config.from_one else jnp.ones
        self.scale = nnx.Param(start(shape, dtype)) if config.scale else None
        self.bias = nnx.Param(jnp.zeros(shape, dtype)) if config.bias else None

    def __call__(self, hidden: Float[Array, "..."]) -> Float[Array, "..."]:
        """The input, normalised: of the same shape and dtype."""
        x = hidden.astype(jnp.float32)
        if self.config.kind == "layer":
            x -= x.mean(-1, keepdims=True)
        x *= jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.config.eps)
        if self.scale is not None:
            x *= self._weights(self.scale, x.ndim) + (1 if self.config.from_one else 0)
        if self.bias is not None:
            x += self._weights(self.bias, x.ndim)
        return x.astype(hidden.dtype)

    def _weights(self, weights: nnx.Param, ndim: int) -> Float[Array, "..."]:
        values = weights[...].astype(jnp.float32)
        return values.reshape((1,) * (ndim - values.ndim) + values.shape)
