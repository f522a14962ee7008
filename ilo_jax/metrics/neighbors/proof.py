"""Which candidates are certainly the nearest: bounds on every rounding error."""

import math
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.metrics.neighbors.cloud import ROUNDOFF, Cloud, depth
from ilo_jax.metrics.neighbors.selection import Candidates, take


class Verdict(NamedTuple):
    """What candidates say about the nearest points of each query."""

    index: Int[Array, "query k"]
    """The k nearest candidates, nearest first; -1 where there are fewer."""
    uncertain: Bool[Array, " query"]
    """Whether a tie or rounding leaves open which points are the k nearest."""
    unproven: Bool[Array, " query"]
    """Whether a point that was not proposed might be among them."""


def judged(
    found: Candidates, cloud: Cloud, *, k: int, slack: Float[Array, ""] | float, distance: str
) -> Verdict:
    """The k nearest of the candidates, and whether they are the k nearest of all points.

    Args:
        found: More than k candidates of each point, by scores that are wrong by at most
            slack (|query|^2 + |key|^2) / 2 and from which slack |key|^2 / 2 was not taken away.
        cloud: All points.
        k: Number of neighbours.
        slack: See above.
        distance: "cosine" or "euclidean".
    """
    negated, order = lax.top_k(-found.squared, k + 1)
    last, following = -negated[:, k - 1], -negated[:, k]
    # No point that was not proposed is nearer than this.
    floor = jnp.maximum((1 - slack) * cloud.squared_norm - 2 * found.score[:, -1], 0)
    bound = partial(
        _rounding,
        norm=jnp.sqrt(cloud.squared_norm),
        dim=cloud.points.shape[1],
        distance=distance,
    )

    def open_to(beyond: Float[Array, " query"]) -> Bool[Array, " query"]:
        return jnp.isfinite(beyond) & (beyond - last <= bound(beyond) + bound(last))

    there = cloud.usable & jnp.isfinite(last)
    unproven = there & open_to(floor)
    return Verdict(
        index=jnp.where(there[:, None], take(found.index, order[:, :k]), -1),
        uncertain=unproven | (there & open_to(following)),
        unproven=unproven,
    )


def product_slack(dim: int, *, low: bool) -> float:
    """A score, a product of rows minus half a squared norm, is this exact.

    It is wrong by at most slack (|query|^2 + |key|^2) / 2: one roundoff for each term of the
    product in whatever order they are added, two more where float32 products are made of six
    bfloat16 passes, and the rest for the norm, its product and the sum. With `low` the products
    of bfloat16 themselves are exact, but matrix units may cut their sums off instead of rounding
    them, which costs two roundoffs each; how far the factors were moved is not in it, nor what
    underflows, for which `_rounding` stands.
    """
    return 1.01 * ((1 + low) * dim + 3 * depth(dim) + 16) * ROUNDOFF


def _rounding(
    squared: Float[Array, " query"], *, norm: Float[Array, " query"], dim: int, distance: str
) -> Float[Array, " query"]:
    """How far a computed squared distance may be from the true one, up to a factor of its query.

    Write u for the roundoff and D for the true squared distance of points p (the query) and q,
    which are unit vectors under cosine. What is stored is y = (1 + e) p + a - centre, where
    |e| <= length (the error of the inverse norm, along p itself), and a is rounding with
    |a| <= u (unit + |y|): one product under cosine, one subtraction of the centre.

    - The norms: |(1 + e) p - (1 + f) q|^2 = (1 + e)(1 + f) D + (e - f)^2 for unit vectors. The
      factor (1 + e) is common to all neighbours of a query and changes no order.
    - The roundings move the difference by at most shift + u sqrt(D), since |y_q| is at most
      |y_p| + sqrt(D); shift = 2 u (unit + |y_p|).
    - The sum of squares is wrong by u for each of `depth` additions, a square and, twice, a
      difference.

    Together |computed - D| <= slope D + 2 shift sqrt(D) + (shift + 2 length)^2. Putting the
    computed for the true D adds at most 2 shift to its root; 1 % covers the products of errors and
    the rounding of this bound.

    What underflows comes on top. Coordinates lie below 4, for `rescaled` brought the largest
    there, and lost less than 2^-102 of any; everything else that becomes 0 was below 2^-126. A
    difference of coordinates is wrong by less than 2^-100 then, and a root by sqrt(dim) times
    that; a square is 0 where it was below 2^-126, and so is each of the at most 16 parts of a term
    of the two scores behind the floor of `judged`: dim 2^-122 for all terms, the square of
    sqrt(dim) 2^-61. So sqrt(dim) 2^-60 in the root of the rest stands above all of it.
    """
    unit = float(distance == "cosine")
    length = unit * (depth(dim) / 2 + 7) * ROUNDOFF
    slope = (depth(dim) + 5) * ROUNDOFF + length
    shift = 2 * ROUNDOFF * (unit + norm)
    rest = jnp.square(3 * shift + 2 * length + math.sqrt(dim) * 2.0**-60)
    return 1.01 * (slope * squared + 2 * shift * jnp.sqrt(squared) + rest)
