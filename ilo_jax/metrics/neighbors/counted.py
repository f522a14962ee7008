"""Exact selection for TPUs: the maxima of bins propose, a count proves that none was missed.

TPUs have an instruction for the maxima of bins of scores (`lax.approx_max_k`; Chern et al.,
"TPU-KNN", arXiv 2206.14286), while sorts of many scores and gathers of single ones are slow. Of two
high scores in one bin it misses the lower. Then more scores are above that of the last candidate
than candidates are, and the query is searched for again among all its scores.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.metrics.neighbors.selection import Candidates, scores

# Share of the candidates that the bins are to find on average: how many and how narrow they are.
_RECALL = 0.98
# Part of the queries that are searched for again at a time.
_AGAIN = 8


def best_keys_counted(
    queries: Float[Array, "query dim"],
    keys: Float[Array, "key dim"],
    bias: Float[Array, " key"],
    own: Int[Array, " query"],
    *,
    count: int,
) -> Candidates:
    """The same candidates as `best_keys` of the queries' `scores`, but for the order of ties.

    Args:
        queries: In float32 or bfloat16.
        keys: As the queries.
        bias: Of each key; -inf excludes it.
        own: Which of the keys the query is; any other number for none.
        count: How many to find; all, if there are fewer.
    """
    count = min(count, len(keys))
    # Both the bins and the count must see the very same scores, not products rounded anew.
    score = lax.optimization_barrier(_biased(queries, keys, bias, own))
    best, index = lax.approx_max_k(score, count, recall_target=_RECALL)
    last = best[:, -1:]
    missed = _number_above(score, last) > _number_above(best, last)
    # A bin in which all keys are excluded names none.
    index = jnp.where(best > -jnp.inf, index, 0)
    found = Candidates(best, jnp.full_like(best, jnp.inf), index)
    return _completed(found, missed, queries, keys, bias, own)


def _biased(
    queries: Float[Array, "query dim"],
    keys: Float[Array, "key dim"],
    bias: Float[Array, " key"],
    own: Int[Array, " query"],
) -> Float[Array, "query key"]:
    """Scores with their bias; -inf for the query itself."""
    itself = own[:, None] == jnp.arange(len(keys), dtype=jnp.int32)[None]
    return jnp.where(itself, -jnp.inf, scores(queries, keys) + bias[None])


def _number_above(
    score: Float[Array, "query some"], last: Float[Array, "query 1"]
) -> Float[Array, " query"]:
    """How many scores of each query are above its last; exact below 2^24."""
    # Matrix units add up faster than vector units do. Fewer columns would not be a product to XLA.
    above = (score > last).astype(jnp.bfloat16)
    ones = jnp.ones((score.shape[1], 128), jnp.bfloat16)
    product = jnp.matmul(
        above, ones, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32
    )
    return product[:, 0]


def _completed(
    found: Candidates,
    missed: Bool[Array, " query"],
    queries: Float[Array, "query dim"],
    keys: Float[Array, "key dim"],
    bias: Float[Array, " key"],
    own: Int[Array, " query"],
) -> Candidates:
    """The candidates, where some were missed those of a search of all scores."""
    size = math.ceil(len(queries) / _AGAIN)
    order = jnp.argsort(~missed).astype(jnp.int32)
    order = jnp.pad(order, (0, -len(order) % size), mode="edge")

    def some(number: Int[Array, ""], found: Candidates) -> Candidates:
        places = lax.dynamic_slice_in_dim(order, number * size, size)
        score = _biased(queries[places], keys, bias, own[places])
        best, index = lax.top_k(score, found.score.shape[1])
        again = Candidates(best, jnp.full_like(best, jnp.inf), index)
        return jax.tree.map(lambda x, y: x.at[places].set(y), found, again)

    parts = (jnp.sum(missed, dtype=jnp.int32) + size - 1) // size
    return lax.fori_loop(jnp.int32(0), parts, some, found)
