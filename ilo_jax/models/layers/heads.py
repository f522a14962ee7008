"""From the last hidden state to scores of the vocabulary."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.layers.linear import linear, matmul_precision, visited
from ilo_jax.models.layers.mlp import ACTIVATIONS
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.models.sites import LayerVisit, passing


class Embedded(nnx.Module):
    """What a scorer needs of an embedding: the token table, where it has a checkpoint's path."""

    def __init__(self, tokens: nnx.Embed):
        self.tokens = tokens


class Scorer(nnx.Module):
    """A head by itself, with the token embedding if it is tied to that."""

    def __init__(self, head: "Head", tokens: nnx.Embed):
        self.head = head
        self.embed = Embedded(tokens) if head.out is None else None

    def __call__(
        self, hidden: Float[Array, "batch seq dim"], visit: LayerVisit = passing
    ) -> Float[Array, "batch seq vocab"]:
        """The scores."""
        table = None if self.embed is None else self.embed.tokens.embedding[...]
        return self.head(hidden, table, visit)


class Head(nnx.Module):
    """The matrix of the vocabulary, its own or that of the embedding, and what stands before it."""

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
        self,
        hidden: Float[Array, "batch seq dim"],
        table: Float[Array, "vocab inner"] | None,
        visit: LayerVisit = passing,
    ) -> Float[Array, "batch seq vocab"]:
        """The scores; `table` is the token embedding, used where the head is tied."""
        for name, layer in (("project", self.project), ("dense", self.dense)):
            hidden = hidden if layer is None else visited(layer, f"head/{name}", hidden, visit)
        if self.config.activation is not None:
            hidden = ACTIVATIONS[self.config.activation](hidden)
        if self.norm is not None:
            hidden = self.norm(hidden)
        scores = self._scores(visit("head/out/input", hidden), table)
        if self.bias is not None:
            scores += self.bias[...][None, None]
        scores = visit("head/out/output", scores) * self.config.scale
        cap = self.config.softcap
        return scores if cap is None else cap * jnp.tanh(scores / cap)

    def _scores(self, hidden: Array, table: Array | None) -> Array:
        if self.out is not None:
            return self.out(hidden)
        assert table is not None
        return jnp.einsum("bsd,vd->bsv", hidden, table, precision=matmul_precision(hidden.dtype))
