"""Points around their centre, where float32 products tell them apart."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ilo_jax.metrics.neighbors.centre import robust_centre
from ilo_jax.metrics.neighbors.scale import rescaled

ROUNDOFF = 2.0**-24
LOW_ROUNDOFF = 2.0**-8


class Cloud(NamedTuple):
    """Points whose euclidean distances rank as the distance asked for does."""

    points: Float[Array, "point dim"]
    """Around their centre; 0 where unusable."""
    squared_norm: Float[Array, " point"]
    """Squared norm of each point."""
    usable: Bool[Array, " point"]
    """False for a point that is left out."""


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


def centred(
    points: Float[Array, "point dim"],
    usable: Bool[Array, " point"],
    *,
    distance: str,
    axes: tuple[str, ...] = (),
) -> Cloud:
    """Points around the centre of the usable ones, outliers excepted.

    Which centre is taken changes no distance; taking away what nearly all points share is what
    makes float32 products tell them apart.

    Args:
        points: In float32.
        usable: False for a point to leave out.
        distance: "cosine" or "euclidean".
        axes: Of the mesh, over which the points are split where this runs under `jax.shard_map`.
    """
    present = usable[:, None]
    points = jnp.where(present, points, 0.0)
    peak = jnp.max(jnp.abs(points), axis=1, keepdims=True)
    if distance == "euclidean":
        peak = jnp.max(peak, keepdims=True)
        peak = lax.pmax(peak, axes) if axes else peak
    points = rescaled(points, peak)
    if distance == "cosine":
        norm = jnp.sqrt(pairwise_sum(jnp.square(points)))
        points *= (1 / jnp.where(usable, norm, 1.0))[:, None]
    centre = robust_centre(points, usable, axes=axes)
    points = jnp.where(present, points - centre[None], 0.0)
    return Cloud(points, pairwise_sum(jnp.square(points)), usable)


def low_precision_loss(cloud: Cloud, *, axes: tuple[str, ...] = ()) -> Float[Array, ""]:
    """The most, relative to its length, by which bfloat16 moves a point.

    Measured, but for points so short that the squares of their errors would underflow: there the
    bound for any number stands, which is about twice as much.
    """
    error = cloud.points - cloud.points.astype(jnp.bfloat16).astype(jnp.float32)
    squared = pairwise_sum(jnp.square(error)) / jnp.maximum(cloud.squared_norm, 1e-24)
    bounded = jnp.where(cloud.squared_norm > 1e-24, jnp.sqrt(squared), LOW_ROUNDOFF)
    nonzero = jnp.any(cloud.points != 0, axis=1)
    most = jnp.max(jnp.where(nonzero, bounded, 0.0))
    return lax.pmax(most, axes) if axes else most


def depth(count: int) -> int:
    """How many additions a term passes through in `pairwise_sum`."""
    return math.ceil(math.log2(count))


def pairwise_sum(terms: Float[Array, "*batch term"]) -> Float[Array, "*batch"]:
    """Sum of the last axis in which no term passes through more than `depth` additions."""
    while terms.shape[-1] > 1:
        half = math.ceil(terms.shape[-1] / 2)
        low, high = terms[..., :half], terms[..., half:]
        widths = [(0, 0)] * (terms.ndim - 1) + [(0, half - high.shape[-1])]
        terms = low + jnp.pad(high, widths)
    return terms[..., 0]
