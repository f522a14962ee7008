"""Exact selection of the best scores in two stages, and their merging.

A block of scores is cut into tiles. The `count` highest scores lie in the `count` tiles of highest
maximum, for each other tile has at least `count` scores above all of its own: so only these tiles
are sorted.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ilo_jax.metrics.neighbors.cloud import pairwise_sum
from ilo_jax.metrics.neighbors.meshes import varying_like


class Candidates(NamedTuple):
    """Points proposed as the nearest of each query, by falling score."""

    score: Float[Array, "query count"]
    """-inf where there is no candidate."""
    squared: Float[Array, "query count"]
    """Squared distance, from coordinate differences; inf where it is not known."""
    index: Int[Array, "query count"]
    """Which point it is; arbitrary where there is no candidate."""


def no_candidates(queries: Float[Array, "query dim"], count: int) -> Candidates:
    """Candidates of queries that have none yet."""
    shape = (len(queries), count)
    far = jnp.full(shape, jnp.inf, jnp.float32)
    none = Candidates(-far, far, jnp.zeros(shape, jnp.int32))
    return jax.tree.map(lambda x: varying_like(x, queries), none)


def take(values: Array, places: Int[Array, "query chosen"]) -> Array:
    """Values of each query at the places chosen for it, all of which exist."""
    return lax.platform_dependent(values, places, tpu=_compared, default=_gathered)


def _gathered(values: Array, places: Int[Array, "query chosen"]) -> Array:
    return jnp.take_along_axis(values, places, axis=1, mode="promise_in_bounds")


def _compared(values: Array, places: Int[Array, "query chosen"]) -> Array:
    """The same of few values: TPUs rather look at all of them than gather one by one."""
    at = places[:, :, None] == jnp.arange(values.shape[1], dtype=jnp.int32)[None, None]
    zero = jnp.zeros((), values.dtype)
    return jnp.sum(jnp.where(at, values[:, None], zero), axis=2, dtype=values.dtype)


def scores(
    queries: Float[Array, "query dim"], keys: Float[Array, "key dim"]
) -> Float[Array, "query key"]:
    """Products of queries and keys: of all their digits, added up in float32."""
    # Else float32 would be cut to TF32 on GPUs and to bfloat16 on TPUs.
    whole = lax.Precision.HIGHEST if queries.dtype == jnp.float32 else lax.Precision.DEFAULT
    return jnp.einsum(
        "qd,kd->qk", queries, keys, precision=whole, preferred_element_type=jnp.float32
    )


def best_keys(
    score: Float[Array, "query key"],
    bias: Float[Array, " key"],
    own: Int[Array, " query"],
    *,
    count: int,
    tile: int,
) -> Candidates:
    """The keys of highest score + bias for each query, itself excepted; distances not known.

    Args:
        score: The number of keys is a multiple of `tile`.
        bias: Of each key; -inf excludes it.
        own: Which of the keys the query is; any other number for none.
        count: How many to find; all, if there are fewer.
        tile: Keys in a tile.
    """
    queries, keys = score.shape
    tiles = keys // tile
    # A tile's keys are `tiles` apart, so that their maximum is one of whole vectors. A reduction
    # would be the same, but XLA writes all scores with their bias before it.
    places = [slice(start, start + tiles) for start in range(0, keys, tiles)]
    peak = reduce(jnp.maximum, (score[:, place] + bias[None, place] for place in places))
    # One tile more, for the query itself may hold the maximum of one.
    _, chosen = lax.top_k(peak, min(count + 1, tiles))
    index = jnp.arange(tile, dtype=jnp.int32)[None, :, None] * tiles + chosen[:, None]
    index = index.reshape(queries, -1)
    inside = _gathered(score, index) + bias.at[index].get(mode="promise_in_bounds")
    inside = jnp.where(index == own[:, None], -jnp.inf, inside)
    return _highest(inside, index, count=count)


def best_queries(
    score: Float[Array, "query key"],
    bias: Float[Array, " query"],
    *,
    skip: int,
    count: int,
    tile: int,
) -> Candidates:
    """The queries of highest score + bias for each key after the first `skip`, as candidates.

    None of them is the key itself.

    Args:
        score: The number of queries is a multiple of `tile`.
        bias: Of each query; -inf excludes it.
        skip: Keys at the beginning to leave out.
        count: How many to find; all, if there are fewer.
        tile: Queries in a tile.
    """
    queries, keys = score.shape
    tiles = queries // tile
    # A tile's queries follow each other: their scores are near in memory. One tile at a time, for
    # XLA would run through all scores by columns, and they are far from each other.
    tiled, by_tile = score.reshape(tiles, tile, keys), bias.reshape(tiles, tile)
    peak = lax.map(lambda part: _highest_row(*part), (tiled, by_tile))
    _, chosen = lax.top_k(peak[:, skip:].T, min(count, tiles))
    index = chosen.T[:, None] * tile + jnp.arange(tile, dtype=jnp.int32)[None, :, None]
    index = index.reshape(-1, keys - skip)
    own = jnp.arange(skip, keys, dtype=jnp.int32)[None]
    inside = score.at[index, own].get(mode="promise_in_bounds")
    inside += bias.at[index].get(mode="promise_in_bounds")
    return _highest(inside.T, index.T, count=count)


def _highest_row(
    score: Float[Array, "query key"], bias: Float[Array, " query"]
) -> Float[Array, " key"]:
    return reduce(jnp.maximum, (row + of_row for row, of_row in zip(score, bias, strict=True)))


def _highest(
    score: Float[Array, "query some"], index: Int[Array, "query some"], *, count: int
) -> Candidates:
    best, place = lax.top_k(score, min(count, score.shape[1]))
    return Candidates(best, jnp.full_like(best, jnp.inf), take(index, place))


def merged(some: Candidates, more: Candidates) -> Candidates:
    """The best of two disjoint sets of candidates, as many as there are of the first."""
    both = Candidates(*(jnp.concatenate(pair, axis=1) for pair in zip(some, more, strict=True)))
    best, place = lax.top_k(both.score, some.score.shape[1])
    return Candidates(best, take(both.squared, place), take(both.index, place))


def measured(
    found: Candidates,
    queries: Float[Array, "query dim"],
    keys: Float[Array, "key dim"],
    *,
    together: bool = True,
) -> Candidates:
    """Candidates with their distances.

    Args:
        found: Indices are positions among the keys.
        queries: In float32.
        keys: In float32.
        together: Whether the coordinates of all candidates are held at a time, or those of one of
            each query.
    """
    if together:
        away = keys.at[found.index].get(mode="promise_in_bounds") - queries[:, None]
        squared = pairwise_sum(jnp.square(away))
    else:

        def one(index: Int[Array, " query"]) -> Float[Array, " query"]:
            away = keys.at[index].get(mode="promise_in_bounds") - queries
            return pairwise_sum(jnp.square(away))

        squared = lax.map(one, found.index.T).T
    return found._replace(squared=jnp.where(found.score > -jnp.inf, squared, jnp.inf))
