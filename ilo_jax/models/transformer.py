"""A transformer that shows its hidden states to a tap: every decoder and encoder that we read."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.layers.attention import Layout, layout
from ilo_jax.models.layers.block import Block
from ilo_jax.models.layers.embedding import Embedding
from ilo_jax.models.layers.linear import linear, matmul_precision
from ilo_jax.models.layers.mlp import ACTIVATIONS
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.sharding import along_data

T = TypeVar("T")
U = TypeVar("U")


class Head(nnx.Module):
    """From the last hidden state to scores of the vocabulary."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        head, dim, inner = config.head, config.dim, config.embedding.inner_dim
        self.config = head
        self.project = linear(dim, inner, bias=False, dtype=dtype, rngs=rngs) if inner else None
        masked = head.activation is not None
        self.dense = linear(dim, dim, bias=True, dtype=dtype, rngs=rngs) if masked else None
        self.norm = Normalize(head.norm, dim, dtype=dtype) if head.norm else None
        own = head.kind == "own"
        self.out = (
            linear(inner or dim, config.vocab, bias=False, dtype=dtype, rngs=rngs) if own else None
        )
        self.bias = nnx.Param(jnp.zeros(config.vocab, dtype)) if head.bias else None

    def __call__(
        self, hidden: Float[Array, "batch seq dim"], table: Float[Array, "vocab inner"]
    ) -> Float[Array, "batch seq vocab"]:
        """Return the scores; `table` is the token embedding, used where the head is tied."""
        for layer in (self.project, self.dense):
            hidden = hidden if layer is None else layer(hidden)
        if self.config.activation is not None:
            hidden = ACTIVATIONS[self.config.activation](hidden)
        if self.norm is not None:
            hidden = self.norm(hidden)
        scores = self._scores(hidden, table)
        if self.bias is not None:
            scores += self.bias[...][None, None]
        scores *= self.config.scale
        cap = self.config.softcap
        return scores if cap is None else cap * jnp.tanh(scores / cap)

    def _scores(self, hidden: Array, table: Array) -> Array:
        if self.out is not None:
            return self.out(hidden)
        return jnp.einsum("bsd,vd->bsv", hidden, table, precision=matmul_precision(hidden.dtype))


class Transformer(nnx.Module):
    """A language model over packed rows, causal or not, put together from its mechanisms."""

    mesh: Mesh | None = None
    """Where the weights lie, if over devices: hidden states then stay split over its "data"."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.embed = Embedding(config.embedding, dtype=dtype, rngs=rngs)
        self.layers = nnx.List([
            Block(block, dim=config.dim, dtype=dtype, rngs=rngs) for block in config.blocks
        ])
        final = config.final_norm
        self.norm = Normalize(final, config.dim, dtype=dtype) if final else None
        self.head = None if config.head.kind == "none" else Head(config, dtype=dtype, rngs=rngs)

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
        return self.show(tokens, positions, segments, residual=tap, mlp=lambda neurons: None)[0]

    def show(
        self,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        segments: Int[Array, "batch seq"],
        *,
        residual: Callable[[Float[Array, "batch seq dim"]], T],
        mlp: Callable[[Float[Array, "batch seq neuron"]], U],
    ) -> tuple[list[T], list[U]]:
        """Return what taps make of each hidden state, and of each block's neurons.

        Args:
            tokens: token ids in [0, vocab).
            positions: of each token inside its segment, from 0.
            segments: which tokens belong together, from 1; 0 is padding.
            residual: applied to the L + 1 states, embedding first; the last is after the
                final norm.
            mlp: applied to what each of the L blocks' MLPs projects down.
        """
        at = self._layout(positions, segments)
        hidden = self.begin(tokens, positions)
        states, neurons = [residual(hidden)], []
        for block in range(self.config.layers):
            hidden, shown = self._after(block, hidden, at, neurons=mlp)
            states.append(residual(hidden))
            neurons.append(shown)
        return states, neurons

    def begin(
        self, tokens: Int[Array, "batch seq"], positions: Int[Array, "batch seq"]
    ) -> Float[Array, "batch seq dim"]:
        """Return hidden state 0, before the first block."""
        return self._along_data(self.embed(tokens, positions))

    def through(
        self,
        hidden: Float[Array, "batch seq dim"],
        positions: Int[Array, "batch seq"],
        segments: Int[Array, "batch seq"],
        *,
        blocks: range,
        remat: bool = False,
    ) -> Float[Array, "batch seq dim"]:
        """Return the hidden state after some consecutive blocks, given the one before them.

        Args:
            hidden: state `blocks.start`.
            positions: of each token inside its segment, from 0.
            segments: which tokens belong together, from 1; 0 is padding.
            blocks: that it goes through; after the last of the model comes the final norm.
            remat: whether differentiation keeps only what goes into each block, and
                computes the rest again.
        """
        at = self._layout(positions, segments)
        for block in blocks:
            step = partial(self._only_after, block, at=at)
            hidden = (jax.checkpoint(step) if remat else step)(hidden)
        return hidden

    def _layout(self, positions: Array, segments: Array) -> Layout:
        kinds = (block.attention for block in self.config.blocks)
        return layout(kinds, positions, segments, causal=self.config.causal)

    def _only_after(self, block: int, hidden: Array, *, at: Layout) -> Array:
        return self._after(block, hidden, at, neurons=lambda neurons: None)[0]

    def _after(
        self, block: int, hidden: Array, at: Layout, *, neurons: Callable[[Array], U]
    ) -> tuple[Array, U]:
        """Return the hidden state after one block, and what is made of its neurons."""
        hidden, shown = self.layers[block].show(hidden, at, neurons=neurons)
        hidden = self._along_data(hidden)
        if block == self.config.layers - 1 and self.norm is not None:
            hidden = self.norm(hidden)
        return hidden, shown

    def _along_data(self, hidden: Float[Array, "batch seq dim"]) -> Array:
        """Keep the batch split, or weights split over "data" would replicate it."""
        if self.mesh is None or hidden.shape[0] % self.mesh.shape["data"]:
            return hidden
        return jax.lax.with_sharding_constraint(hidden, along_data(self.mesh))

    def logits(self, final: Float[Array, "batch seq dim"]) -> Float[Array, "batch seq vocab"]:
        """Return the scores of each position's token from the last hidden state.

        A decoder's are of the next token, an encoder's of the masked one.

        Raises:
            ValueError: if the checkpoint has no head.
        """
        if self.head is None:
            raise ValueError("this checkpoint is a bare backbone: it has no head for logits")
        return self.head(final, self.embed.tokens.embedding[...])
