"""Attention of queries to the keys of their segments."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32

from ilo_jax.models.config import AttentionConfig
from ilo_jax.models.layers.layout import Layout
from ilo_jax.models.layers.linear import linear, matmul_precision, visited
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.models.layers.rope import rotate
from ilo_jax.models.layers.spans import Span
from ilo_jax.models.sites import LayerVisit, passing

KEPT = "weights of attention"
"""Name of what differentiation rather keeps than computes again from the scores."""


def alibi_slopes(heads: int) -> Float[np.ndarray, " head"]:
    """By how much each head's scores fall per token of distance.

    A geometric series for a power of two; other counts add every second term of the
    series of the next power. Source: Press et al. 2022, section 3, and its code.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    slopes += [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]
    return np.asarray(slopes, np.float32)


def attend(
    query: Float[Array, "batch query head dim"],
    key: Float[Array, "batch key kv dim"],
    value: Float[Array, "batch key kv dim"],
    at: Layout,
    *,
    config: AttentionConfig,
) -> Float[Array, "batch query head dim"]:
    """Scaled dot-product attention; consecutive query heads share a key/value head.

    Scores and softmax are float32 whatever the dtype of the arguments. Each span of queries
    meets the keys that it may see, and no others.
    """
    batch, seq, head, dim = query.shape
    # One product for all the query heads of a key/value head, on the rows that BLAS wants.
    queries = jnp.moveaxis(query.reshape(batch, seq, key.shape[2], -1, dim), 1, 3)
    keys, values = jnp.moveaxis(key, 1, 2), jnp.moveaxis(value, 1, 2)
    parts = []
    for span, mask in at.masks[config.window]:
        some = queries[..., span.queries, :], keys[:, :, span.keys], values[:, :, span.keys]
        parts.append(_attend(*some, _bias(at, span, mask, config), config=config))
    mixed = jnp.moveaxis(jnp.concatenate(parts, axis=3), 3, 1)
    return mixed.astype(value.dtype).reshape(batch, seq, head, dim)


def _attend(
    queries: Float[Array, "batch kv group query dim"],
    keys: Float[Array, "batch kv key dim"],
    values: Float[Array, "batch kv key dim"],
    bias: Float32[Array, "batch #kv #group query key"],
    *,
    config: AttentionConfig,
) -> Float32[Array, "batch kv group query dim"]:
    """The mix of values for each query, the bias added to its scores."""
    batch, kv, group, query, dim = queries.shape
    product = functools.partial(
        jnp.einsum,
        precision=matmul_precision(queries.dtype),
        preferred_element_type=jnp.float32,
    )
    scores = product("bhqd,bhkd->bhqk", queries.reshape(batch, kv, -1, dim), keys)
    scores = scores.reshape(batch, kv, group, query, -1) * np.float32(config.scale)
    if config.softcap is not None:
        scores = config.softcap * jnp.tanh(scores / config.softcap)
    scores += bias
    weights = _exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    flat = weights.astype(values.dtype).reshape(batch, kv, group * query, -1)
    mixed = product("bhqk,bhkd->bhqd", flat, values).reshape(queries.shape)
    # Divided last: there are fewer dimensions than keys.
    return mixed / weights.sum(-1, keepdims=True)


@jax.custom_jvp
def _exp(scores: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """The exponential; differentiation keeps its value rather than what it was taken of."""
    return jnp.exp(scores)


@_exp.defjvp
def _exp_jvp(scores: tuple[Array], slopes: tuple[Array]) -> tuple[Array, Array]:
    value = checkpoint_name(jnp.exp(*scores), KEPT)
    return value, value * slopes[0]


def _bias(
    at: Layout,
    span: Span,
    mask: Bool[Array, "batch query key"],
    config: AttentionConfig,
) -> Float32[Array, "batch #kv #group query key"]:
    """What is added to the scores of a span: -inf where there is nothing to see.

    Added rather than chosen: softmax then runs up to twice as fast on CPUs.
    """
    bias = jnp.where(mask, jnp.float32(0), -jnp.inf)[:, None, None]
    if not config.alibi:
        return bias
    queries, keys = at.queries.positions[:, span.queries], at.keys.positions[:, span.keys]
    away = queries[:, :, None] - keys[:, None, :]
    slopes = jnp.asarray(alibi_slopes(config.heads)).reshape(1, config.kv_heads, -1, 1, 1)
    return bias - slopes * away[:, None, None].astype(jnp.float32)


class Attention(nnx.Module):
    """Projections around `attend`, with norms and rotation of queries and keys."""

    def __init__(self, config: AttentionConfig, *, dim: int, dtype: DTypeLike, rngs: nnx.Rngs):
        project = functools.partial(linear, dim, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.config = config
        self.q = project(config.heads * config.head_dim)
        self.k = project(config.kv_heads * config.head_dim)
        self.v = project(config.kv_heads * config.head_dim)
        self.o = linear(
            config.heads * config.head_dim, dim, bias=config.out_bias, dtype=dtype, rngs=rngs
        )
        self.q_norm = self._norm(config.heads, dtype=dtype)
        self.k_norm = self._norm(config.kv_heads, dtype=dtype)

    def _norm(self, heads: int, *, dtype: DTypeLike) -> Normalize | None:
        if self.config.qk_norm is None:
            return None
        dim = self.config.head_dim
        shape = {"head": dim, "each": (heads, dim), "all": heads * dim}
        return Normalize(self.config.qk_norm, shape[self.config.qk_norm_over], dtype=dtype)

    def _heads(
        self, projected: Float[Array, "batch seq width"], norm: Normalize | None
    ) -> Float[Array, "batch seq head dim"]:
        """Split into heads, normed before or after."""
        heads = (*projected.shape[:2], -1, self.config.head_dim)
        if norm is None:
            return projected.reshape(heads)
        if self.config.qk_norm_over == "all":
            return norm(projected).reshape(heads)
        return norm(projected.reshape(heads))

    def __call__(
        self, hidden: Float[Array, "batch seq dim"], at: Layout, visit: LayerVisit = passing
    ) -> Float[Array, "batch seq dim"]:
        """The block's update of the residual stream."""
        query = self._heads(visited(self.q, "attn/q", hidden, visit), self.q_norm)
        key = self._heads(visited(self.k, "attn/k", hidden, visit), self.k_norm)
        value = self._heads(visited(self.v, "attn/v", hidden, visit), None)
        by, rope = at.rotations[self.config.rope], self.config.rope
        if rope is not None and by is not None:
            query = rotate(query, by, interleaved=rope.interleaved)
            key = rotate(key, by, interleaved=rope.interleaved)
        key, value = visit("keys", key), visit("values", value)
        mixed = visit("heads", attend(query, key, value, at, config=self.config))
        return visited(self.o, "attn/o", mixed.reshape(*hidden.shape[:2], -1), visit)
