"""Exact nearest neighbours in blocks: a matrix product proposes, a proven bound decides.

Float32 products of centred points propose a few more candidates than needed; the distances of the
candidates are then computed again from coordinate differences, and a bound on every rounding
error says whether the k nearest are certain. No N x N array is ever held.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

_DISTANCES = ("cosine", "euclidean")
_ROUNDOFF = 2.0**-24
# Candidates beyond the k+1 that decide; more would only rescue points in crowded places.
_SPARE = 10
_MAX_BLOCK = 256
_MAX_ELEMENTS = 2**25


class Neighbors(NamedTuple):
    """The k nearest other points of each point."""

    index: Int[Array, "point k"]
    """Positions, nearest first; -1 where the point is unusable or has fewer than k usable others.
    """
    uncertain: Bool[Array, " point"]
    """True where rounding or a tie leaves open which points are the k nearest."""
    unusable: Bool[Array, " point"]
    """True where the point is left out: not finite, zero under cosine, or left out by the caller.
    """


def refuse(errors: list[str]) -> None:
    """Raise all errors at once, if there are any.

    Raises:
        ValueError: If `errors` is not empty.
    """
    if errors:
        raise ValueError("; ".join(errors))


def search_errors(num_points: int, *, k: int, distance: str) -> list[str]:
    """What makes a search impossible, one sentence each; empty if nothing does."""
    errors = []
    if not 1 <= k < num_points:
        errors.append(f"k must be in [1, {num_points - 1}] for {num_points} points, got {k}")
    if distance not in _DISTANCES:
        errors.append(f"distance must be one of {', '.join(_DISTANCES)}, got {distance!r}")
    return errors


def usable_points(
    points: Float[Array, "point dim"], *, distance: str = "cosine"
) -> Bool[Array, " point"]:
    """True where a point is finite and, under cosine, not zero.

    Zero means that no coordinate reaches the smallest normal float32, about 1.2e-38.
    """
    points = points.astype(jnp.float32)
    usable = jnp.all(jnp.isfinite(points), axis=1)
    if distance == "cosine":
        usable &= jnp.max(jnp.abs(points), axis=1) >= jnp.finfo(jnp.float32).tiny
    return usable


def nearest(
    points: Float[Array, "point dim"],
    *,
    k: int,
    distance: str = "cosine",
    usable: Bool[Array, " point"] | None = None,
    block: int | None = None,
) -> Neighbors:
    """The exact k nearest other points of each point.

    A point is never its own neighbour, however many others coincide with it. Unusable points are
    treated exactly as if they had been dropped. Which neighbours are right is decided for the
    points rounded to float32, in which everything is computed; where float32 cannot tell, or
    the k-th and (k+1)-th nearest tie, `uncertain` says so and either may be listed. A certain
    point has the same neighbours for every block size, order of points and device.

    Works under `jax.jit`, `jax.vmap` and `jax.lax.map`. Differentiable nowhere: the gradient
    is stopped.

    Cost: 2 point^2 dim operations; memory for `block` rows of `point` scores beside two copies of
    the points.

    Args:
        points: One point per row, in any float type.
        k: Number of neighbours, at least 1 and below the number of points.
        distance: "cosine" (the angle between points) or "euclidean".
        usable: False where the caller leaves a point out, padding for example.
        block: Points searched for at once; by default as many as keep each temporary array within
            128 MiB, at most 256.

    Raises:
        ValueError: If `k`, `distance` or `block` is not possible.
    """
    errors = search_errors(len(points), k=k, distance=distance)
    if block is not None and block < 1:
        errors.append(f"block must be at least 1, got {block}")
    refuse(errors)
    if usable is None:
        usable = jnp.ones(len(points), bool)
    return _nearest(points, usable, k=k, distance=distance, block=block)


@partial(jax.jit, static_argnames=("k", "distance", "block"))
def _nearest(
    points: Float[Array, "point dim"],
    usable: Bool[Array, " point"],
    *,
    k: int,
    distance: str,
    block: int | None,
) -> Neighbors:
    num_points, dim = points.shape
    points = lax.stop_gradient(points).astype(jnp.float32)
    usable &= usable_points(points, distance=distance)

    candidates = min(k + 1 + _SPARE, num_points)
    # Balances the two halves of the selection: the best of all tiles, the best inside the best.
    width = math.isqrt(num_points // candidates)
    tiles = math.ceil(num_points / width)
    padding = width * tiles - num_points
    keys = jnp.pad(_centred(points, usable, distance=distance), ((0, padding), (0, 0)))
    squared_norm = _pairwise_sum(jnp.square(keys))
    slack = _product_slack(dim)
    # The key's half of the slack goes into its score, the query's into the floor below.
    bias = jnp.where(jnp.pad(usable, (0, padding)), (slack - 1) / 2 * squared_norm, -jnp.inf)

    def search(query: Int[Array, ""]) -> tuple[Int[Array, " k"], Bool[Array, ""]]:
        score = jnp.einsum("d,pd->p", keys[query], keys, precision=lax.Precision.HIGHEST) + bias
        score = jnp.where(jnp.arange(len(keys)) == query, -jnp.inf, score)
        score, index = _top(score.reshape(width, tiles), candidates)
        squared = _pairwise_sum(jnp.square(keys[index] - keys[query][None]))
        squared = jnp.where(score > -jnp.inf, squared, jnp.inf)
        negated, order = lax.top_k(-squared, k + 1)
        last = -negated[k - 1]
        # No point that was not proposed is nearer than this.
        floor = (1 - slack) * squared_norm[query] - 2 * score[-1]
        beyond = jnp.minimum(-negated[k], jnp.maximum(floor, 0))
        bound = partial(_rounding, norm=jnp.sqrt(squared_norm[query]), dim=dim, distance=distance)
        uncertain = jnp.isfinite(beyond) & (beyond - last <= bound(beyond) + bound(last))
        found = usable[query] & jnp.isfinite(last)
        return jnp.where(found, index[order[:k]], -1), found & uncertain

    block = min(block or _block(len(keys), candidates * dim), num_points)
    # Whole blocks only, the last point searched for again: a remainder would be compiled twice.
    queries = jnp.minimum(jnp.arange(math.ceil(num_points / block) * block), num_points - 1)
    index, uncertain = lax.map(search, queries, batch_size=block)
    return Neighbors(index[:num_points], uncertain[:num_points], ~usable)


def _block(*elements: int) -> int:
    return max(1, min(_MAX_BLOCK, _MAX_ELEMENTS // max(elements)))


def _centred(
    points: Float[Array, "point dim"], usable: Bool[Array, " point"], *, distance: str
) -> Float[Array, "point dim"]:
    """Points whose euclidean distances rank as `distance` does, around their mean; unusable: 0.

    Which centre is taken changes no distance, so its own rounding does not matter; taking away
    what all points share is what makes float32 products tell them apart.
    """
    present = usable[:, None]
    points = jnp.where(present, points, 0.0)
    peak = jnp.max(jnp.abs(points), axis=1, keepdims=True)
    if distance == "euclidean":
        peak = jnp.max(peak, keepdims=True)
    points *= _reciprocal_power_of_two(peak)
    if distance == "cosine":
        norm = jnp.sqrt(_pairwise_sum(jnp.square(points)))
        points *= (1 / jnp.where(usable, norm, 1.0))[:, None]
    mean = jnp.sum(points, axis=0) / jnp.maximum(jnp.sum(usable), 1)
    return jnp.where(present, points - mean[None], 0.0)


def _reciprocal_power_of_two(peak: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A power of two that, exactly and without overflow, brings `peak` into [1, 4)."""
    exponent = lax.bitcast_convert_type(peak, jnp.int32) >> 23
    return lax.bitcast_convert_type(jnp.clip(254 - exponent, 1, 254) << 23, jnp.float32)


def _top(
    score: Float[Array, "width tile"], count: int
) -> tuple[Float[Array, " count"], Int[Array, " count"]]:
    """The `count` highest scores, highest first, and their places in the flattened array.

    They lie in the `count` tiles (columns) of highest maximum: each other tile has at least
    `count` scores above all of its own. So only those tiles are sorted.
    """
    _, tile = lax.top_k(jnp.max(score, axis=0), count)
    best, place = lax.top_k(score[:, tile].reshape(-1), count)
    return best, place // count * score.shape[1] + tile[place % count]


def _depth(count: int) -> int:
    return math.ceil(math.log2(count))


def _pairwise_sum(terms: Float[Array, "*batch term"]) -> Float[Array, "*batch"]:
    """Sum of the last axis in which no term passes through more than `_depth` additions."""
    while terms.shape[-1] > 1:
        half = math.ceil(terms.shape[-1] / 2)
        low, high = terms[..., :half], terms[..., half:]
        widths = [(0, 0)] * (terms.ndim - 1) + [(0, half - high.shape[-1])]
        terms = low + jnp.pad(high, widths)
    return terms[..., 0]


def _product_slack(dim: int) -> float:
    """A score, a product of rows minus half a squared norm, is this exact.

    It is wrong by at most slack (|query|^2 + |key|^2) / 2: one roundoff for each term of the
    product in whatever order they are added, two more where float32 products are made of six
    bfloat16 passes, and the rest for the norm, its product and the sum.
    """
    return 1.01 * (dim + 3 * _depth(dim) + 16) * _ROUNDOFF


def _rounding(
    squared: Float[Array, ""], *, norm: Float[Array, ""], dim: int, distance: str
) -> Float[Array, ""]:
    """How far a computed squared distance may be from the true one, up to a factor of its query.

    Write u for the roundoff and D for the true squared distance of points p (the query) and q,
    which are unit vectors under cosine. What is stored is y = (1 + e) p + a - centre, where
    |e| <= length (the error of the inverse norm, along p itself), and a is rounding with
    |a| <= u (unit + |y|): one product under cosine, one subtraction of the centre.

    - The norms: |(1 + e) p - (1 + f) q|^2 = (1 + e)(1 + f) D + (e - f)^2 for unit vectors. The
      factor (1 + e) is common to all neighbours of a query and changes no order.
    - The roundings move the difference by at most shift + u sqrt(D), since |y_q| is at most
      |y_p| + sqrt(D); shift = 2 u (unit + |y_p|).
    - The sum of squares is wrong by u for each of `_depth` additions, a square and, twice, a
      difference.

    Together |computed - D| <= slope D + 2 shift sqrt(D) + (shift + 2 length)^2. Putting the
    computed for the true D adds at most 2 shift to its root; 1 % covers the products of errors and
    the rounding of this bound. 2^-50 stands above all underflow.
    """
    unit = float(distance == "cosine")
    length = unit * (_depth(dim) / 2 + 7) * _ROUNDOFF
    slope = (_depth(dim) + 5) * _ROUNDOFF + length
    shift = 2 * _ROUNDOFF * (unit + norm)
    rest = jnp.square(3 * shift + 2 * length + 2.0**-50)
    return 1.01 * (slope * squared + 2 * shift * jnp.sqrt(squared) + rest)
