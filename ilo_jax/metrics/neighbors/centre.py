"""A centre that far-away points do not move."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

# How many times the median distance from the centre a point may be away to count.
_FAR = 4
# Outliers of so many magnitudes, one above the other, are told from the rest.
_PASSES = 2


def robust_centre(
    points: Float[Array, "point dim"], usable: Bool[Array, " point"], *, axes: tuple[str, ...] = ()
) -> Float[Array, " dim"]:
    """The mean of the usable points that are not far away from most, to 17 binary digits.

    The mean of all, then twice the mean of those within 4 median distances of the last one. Where a
    share s of the points lies far out at a distance r, the mean is at most s r away from the rest,
    and so is the median distance, but for the spread of the rest: as long as s is below 1/4, the
    outliers are left out, and no longer move the centre. Where nothing is farther out than 4 median
    distances this is the plain mean.

    A distance does not depend on the centre, so its own rounding does not matter; but it must be
    the same for all points, and has few digits, lest it be rounded here and not rounded there where
    XLA computes points anew.

    Cost: two distances of each point, and the sorting of these.

    Args:
        points: In float32; 0 where unusable.
        usable: False for a point to leave out.
        axes: Of the mesh, over which the points are split where this runs under `jax.shard_map`.
    """
    centre = _mean(points, usable, axes=axes)
    for _ in range(_PASSES):
        squared = jnp.sum(jnp.square(points - centre[None]), axis=1)
        near = squared <= _FAR**2 * _median(squared, usable, axes=axes)
        centre = _mean(points, usable & near, axes=axes)
    return lax.reduce_precision(centre, exponent_bits=8, mantissa_bits=16)


def _mean(
    points: Float[Array, "point dim"], counted: Bool[Array, " point"], *, axes: tuple[str, ...]
) -> Float[Array, " dim"]:
    total = jnp.sum(jnp.where(counted[:, None], points, 0.0), axis=0)
    count = jnp.sum(counted, dtype=jnp.int32)
    if axes:
        total, count = lax.psum((total, count), axes)
    return total / jnp.maximum(count, 1).astype(jnp.float32)


def _median(
    values: Float[Array, " point"], counted: Bool[Array, " point"], *, axes: tuple[str, ...]
) -> Float[Array, ""]:
    """The lower median of the values that count, on all devices; inf where none does."""
    values = jnp.where(counted, values, jnp.inf)
    if axes:
        values = lax.all_gather(values, axes, tiled=True)
    number = jnp.sum(values < jnp.inf, dtype=jnp.int32)
    return lax.sort(values, is_stable=False)[jnp.maximum(number - 1, 0) // 2]
