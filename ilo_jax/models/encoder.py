"""A bidirectional transformer that shows its hidden states to a tap."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ilo_jax.models.attention import Attention, segment_mask
from ilo_jax.models.config import EncoderConfig
from ilo_jax.models.mlp import Mlp

T = TypeVar("T")


def _norm(config: EncoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.dim,
        epsilon=config.norm_eps,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )


class EncoderBlock(nnx.Module):
    """Attention and MLP, each followed by a LayerNorm of its sum with the input."""

    def __init__(self, config: EncoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attn = Attention(
            dim=config.dim,
            heads=config.heads,
            kv_heads=config.heads,
            head_dim=config.dim // config.heads,
            bias=True,
            dtype=dtype,
            rngs=rngs,
        )
        self.attn_norm = _norm(config, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(
            dim=config.dim,
            hidden_dim=config.mlp_dim,
            activation=config.activation,
            gated=False,
            bias=True,
            dtype=dtype,
            rngs=rngs,
        )
        self.mlp_norm = _norm(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, hidden: Float[Array, "batch seq dim"], mask: Array
    ) -> Float[Array, "batch seq dim"]:
        """Return the hidden state after the block."""
        hidden = self.attn_norm(hidden + self.attn(hidden, mask, None))
        return self.mlp_norm(hidden + self.mlp(hidden))


class Encoder(nnx.Module):
    """A bidirectional encoder of `config.layers` blocks, over packed rows."""

    def __init__(self, config: EncoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        def embed(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, config.dim, dtype=dtype, param_dtype=dtype, rngs=rngs)

        self.config = config
        self.embed = embed(config.vocab)
        self.position_embed = embed(config.max_positions)
        self.type_embed = embed(config.token_types)
        self.embed_norm = _norm(config, dtype=dtype, rngs=rngs)
        self.layers = nnx.List([
            EncoderBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.layers)
        ])

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        segments: Int[Array, "batch seq"],
        *,
        tap: Callable[[Float[Array, "batch seq dim"]], T],
    ) -> list[T]:
        """Return what the tap makes of each hidden state, embedding first.

        Args:
            tokens: token ids in [0, vocab); all are of token type 0.
            positions: of each token inside its segment, from 0, below `max_positions`.
            segments: which tokens belong together, from 1; 0 is padding.
            tap: applied to the L + 1 states; the first is the normed embedding.
        """
        mask = segment_mask(segments, causal=False)
        types = self.type_embed(jnp.zeros_like(tokens))
        hidden = self.embed_norm(self.embed(tokens) + types + self.position_embed(positions))
        taps = [tap(hidden)]
        for block in self.layers:
            hidden = block(hidden, mask)
            taps.append(tap(hidden))
        return taps
