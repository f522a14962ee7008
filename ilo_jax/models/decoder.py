"""A causal transformer that shows its residual stream to a tap."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ilo_jax.models.attention import (
    Attention,
    Rotation,
    matmul_precision,
    rope_frequencies,
    rotation,
    segment_mask,
)
from ilo_jax.models.config import DecoderConfig
from ilo_jax.models.mlp import Mlp

T = TypeVar("T")


class DecoderBlock(nnx.Module):
    """Pre-norm attention and pre-norm gated MLP, each added to the residual stream."""

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        def norm() -> nnx.RMSNorm:
            return nnx.RMSNorm(
                config.dim, epsilon=config.norm_eps, dtype=dtype, param_dtype=dtype, rngs=rngs
            )

        self.attn_norm = norm()
        self.attn = Attention(
            dim=config.dim,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            bias=config.attention_bias,
            dtype=dtype,
            rngs=rngs,
        )
        self.mlp_norm = norm()
        self.mlp = Mlp(
            dim=config.dim,
            hidden_dim=config.mlp_dim,
            activation=config.activation,
            gated=True,
            bias=config.mlp_bias,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, hidden: Float[Array, "batch seq dim"], mask: Array, by: Rotation
    ) -> Float[Array, "batch seq dim"]:
        """Return the residual stream after the block."""
        hidden = hidden + self.attn(self.attn_norm(hidden), mask, by)
        return hidden + self.mlp(self.mlp_norm(hidden))


class Decoder(nnx.Module):
    """A causal language model of `config.layers` blocks, over packed rows."""

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.embed = nnx.Embed(config.vocab, config.dim, dtype=dtype, param_dtype=dtype, rngs=rngs)
        self.layers = nnx.List([
            DecoderBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.layers)
        ])
        self.norm = nnx.RMSNorm(
            config.dim, epsilon=config.norm_eps, dtype=dtype, param_dtype=dtype, rngs=rngs
        )
        self.head = (
            nnx.Linear(
                config.dim,
                config.vocab,
                use_bias=False,
                dtype=dtype,
                param_dtype=dtype,
                precision=matmul_precision(dtype),
                rngs=rngs,
            )
            if config.head == "own"
            else None
        )

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
            tokens: token ids in [0, vocab).
            positions: of each token inside its segment, from 0.
            segments: which tokens belong together, from 1; 0 is padding.
            tap: applied to the L + 1 states; the last is after the final norm.
        """
        mask = segment_mask(segments, causal=True)
        frequencies = rope_frequencies(self.config.rope, head_dim=self.config.head_dim)
        by = rotation(positions, frequencies)
        hidden = self.embed(tokens)
        taps = [tap(hidden)]
        for i, block in enumerate(self.layers, 1):
            hidden = block(hidden, mask, by)
            if i == self.config.layers:
                hidden = self.norm(hidden)
            taps.append(tap(hidden))
        return taps

    def logits(self, final: Float[Array, "batch seq dim"]) -> Float[Array, "batch seq vocab"]:
        """Return the scores of the next token from the last hidden state.

        Raises:
            ValueError: if the checkpoint has no head.
        """
        if self.config.head == "none":
            raise ValueError("this checkpoint is a bare backbone: it has no head for logits")
        if self.head is not None:
            return self.head(final)
        return jnp.einsum(
            "bsd,vd->bsv",
            final,
            self.embed.embedding[...],
            precision=matmul_precision(final.dtype),
        )
