"""Points brought to a magnitude near 1 by powers of two, which loses nothing."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Of float32: a number is mantissa 2^(exponent - 150) below 2^24, or fewer bits at exponent 1.
_MANTISSA_BITS = 23
_BIAS = 127


def rescaled(
    points: Float[Array, "*shape"], peak: Float[Array, "*broadcast"]
) -> Float[Array, "*shape"]:
    """Points times the power of two that brings `peak` into [1, 4), exactly.

    CPUs and TPUs take a number below the smallest normal one, 2^-126, for 0. Here its bits are
    read, so that it keeps its value. What lies more than 2^126 below the peak may become 0, and
    is wrong by less than 2^-102.

    Args:
        points: In float32.
        peak: The largest magnitude among them, or of each row; with as many axes.
    """
    exponent = _BIAS - (lax.bitcast_convert_type(peak, jnp.int32) >> _MANTISSA_BITS)
    bits = lax.bitcast_convert_type(points, jnp.int32)
    mantissa = (bits & (2**_MANTISSA_BITS - 1)).astype(jnp.float32)
    subnormal = mantissa * _power_of_two(exponent - (_BIAS - 1 + _MANTISSA_BITS))
    return jnp.where(
        (bits >> _MANTISSA_BITS) & 0xFF == 0,
        jnp.where(bits < 0, -subnormal, subnormal),
        points * _power_of_two(exponent),
    )


def _power_of_two(exponent: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The normal float32 nearest to 2^exponent."""
    biased = jnp.clip(exponent + _BIAS, 1, 2 * _BIAS)
    return lax.bitcast_convert_type(biased << _MANTISSA_BITS, jnp.float32)
