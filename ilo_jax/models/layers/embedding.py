"""From token ids to the first hidden state."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ilo_jax.models.config import EmbeddingConfig
from ilo_jax.models.layers.linear import linear, visited
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.models.sites import LayerVisit, passing


def sinusoids(positions: Int[Array, "batch seq"], *, dim: int) -> Float[Array, "batch seq dim"]:
    """Sines, then cosines, of each position; an odd last dim is 0.

    Wavelengths grow geometrically from 2 pi to 10,000 * 2 pi. Source: Vaswani et al.
    2017, section 3.5, in the order of tensor2tensor's code, that of XGLM.
    """
    half = dim // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(rates)[None, None]
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, 0), (0, dim % 2)))


class Embedding(nnx.Module):
    """Rows of the token table, with what is added and done to them before the first block."""

    def __init__(self, config: EmbeddingConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        table = functools.partial(nnx.Embed, dtype=dtype, param_dtype=dtype, rngs=rngs)
        dim, inner = config.dim, config.inner_dim
        self.config = config
        self.tokens = table(config.vocab, inner or dim)
        self.project = linear(inner, dim, bias=False, dtype=dtype, rngs=rngs) if inner else None
        self.positions = table(config.rows, dim) if config.positions == "learned" else None
        self.types = table(config.token_types, dim) if config.token_types else None
        self.norm = Normalize(config.norm, dim, dtype=dtype) if config.norm else None

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        visit: LayerVisit = passing,
    ) -> Float[Array, "batch seq dim"]:
        """The first hidden state; all tokens are of token type 0."""
        hidden = self.tokens(tokens)
        if self.config.scale != 1:
            hidden *= jnp.asarray(self.config.scale, hidden.dtype)
        if self.project is not None:
            hidden = visited(self.project, "embed/project", hidden, visit)
        hidden = visit("embedding", hidden)
        if self.types is not None:
            hidden += self.types(jnp.zeros_like(tokens))
        rows = positions + self.config.offset
        if self.positions is not None:
            hidden += self.positions(rows)
        elif self.config.positions == "sinusoidal":
            hidden += sinusoids(rows, dim=self.config.dim).astype(hidden.dtype)
        return hidden if self.norm is None else self.norm(hidden)
