"""Rotary positions: frequencies of every kind of scaling, and the turning of heads."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.models.rotary import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    YarnScaling,
)

Rotation = tuple[Float[Array, "batch seq half"], Float[Array, "batch seq half"]]
"""Cosine and sine of every position's angles, times the attention factor."""


def segment_lengths(
    positions: Int[Array, "batch key"], same: Bool[Array, "batch query key"]
) -> Int[Array, "batch query"]:
    """How many tokens the segment of each query has, counted by the positions of the keys."""
    return jnp.where(same, positions[:, None, :], 0).max(-1) + 1


def rotation(
    rope: Rope, positions: Int[Array, "batch seq"], lengths: Int[Array, "batch seq"]
) -> Rotation:
    """Cosine and sine of every position's angles, in float32.

    Args:
        rope: Theta, rotated dims and scaling.
        positions: Of each token inside its segment.
        lengths: Of each token's segment; only scalings that depend on it look.
    """
    frequencies = jnp.asarray(static_frequencies(rope))[None, None]
    scaling = rope.scaling
    if isinstance(scaling, DynamicScaling):
        frequencies = frequencies * _dynamic_stretch(rope, scaling, lengths)
    elif isinstance(scaling, LongScaling):
        factors = jnp.asarray([scaling.short_factor, scaling.long_factor], jnp.float32)
        frequencies = frequencies / factors[(lengths > scaling.original_positions).astype(int)]
    angles = positions[..., None].astype(jnp.float32) * frequencies
    factor = attention_factor(rope)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def turned_anew(rope: Rope, lengths: Int[Array, "*batch"]) -> Bool[Array, "*batch"] | None:
    """Whether the tokens of a segment are rotated otherwise than when it was a token shorter.

    None: they never are, for the length of a segment does not matter.

    Args:
        rope: Theta and scaling.
        lengths: Of segments, in tokens.
    """
    scaling = rope.scaling
    if isinstance(scaling, DynamicScaling):
        return lengths > scaling.original_positions
    if isinstance(scaling, LongScaling):
        return lengths == scaling.original_positions + 1
    return None


def attention_factor(rope: Rope) -> float:
    """What rotated queries and keys are multiplied by."""
    if isinstance(rope.scaling, YarnScaling | LongScaling):
        return rope.scaling.attention_factor
    return 1.0


def static_frequencies(rope: Rope) -> Float[np.ndarray, " half"]:
    """The angle per position of each pair, in radians, where no length changes it.

    Source: Su et al. 2021, section 3.4.2; the scalings are those of their classes.
    """
    frequencies = np.float32(1) / np.float32(rope.theta) ** _exponents(rope)
    scaling = rope.scaling
    if isinstance(scaling, LinearScaling):
        frequencies = frequencies / np.float32(scaling.factor)
    elif isinstance(scaling, Llama3Scaling):
        frequencies = _llama3(scaling, frequencies)
    elif isinstance(scaling, YarnScaling):
        frequencies = _yarn(rope, scaling, frequencies)
    return frequencies.astype(np.float32)


def _exponents(rope: Rope) -> Float[np.ndarray, " half"]:
    return np.arange(0, rope.dims, 2, dtype=np.float32) / np.float32(rope.dims)


def _blend(
    frequencies: Float[np.ndarray, " half"], kept: Float[np.ndarray, " half"], factor: float
) -> Float[np.ndarray, " half"]:
    """Mix kept (1) and stretched (0) frequencies."""
    return frequencies * (kept + (1 - kept) / factor)


def _llama3(
    scaling: Llama3Scaling, frequencies: Float[np.ndarray, " half"]
) -> Float[np.ndarray, " half"]:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_positions * frequencies / (2 * np.pi)
    return _blend(frequencies, np.clip((turns - low) / (high - low), 0, 1), scaling.factor)


def _yarn(
    rope: Rope, scaling: YarnScaling, frequencies: Float[np.ndarray, " half"]
) -> Float[np.ndarray, " half"]:
    """Source: Peng et al. 2023, section 3.2, with its code's rounding of the ramp's ends."""

    def pair_that_turns(times: float) -> float:
        wavelengths = scaling.original_positions / (times * 2 * math.pi)
        return rope.dims * math.log(wavelengths) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    width = high - low or 0.001
    ramp = np.clip((np.arange(rope.dims // 2, dtype=np.float32) - low) / width, 0, 1)
    return _blend(frequencies, 1 - ramp, scaling.factor)


def _dynamic_stretch(
    rope: Rope, scaling: DynamicScaling, lengths: Int[Array, "batch seq"]
) -> Float[Array, "batch seq half"]:
    excess = jnp.maximum(lengths.astype(jnp.float32) / scaling.original_positions, 1)
    growth = scaling.factor * excess - (scaling.factor - 1)
    powers = _exponents(rope) * (rope.dims / (rope.dims - 2))
    return growth[..., None] ** -jnp.asarray(powers, jnp.float32)[None, None]


def rotate(
    heads: Float[Array, "batch seq head dim"], by: Rotation, *, interleaved: bool
) -> Float[Array, "batch seq head dim"]:
    """Turn the pairs of each head by the angles of its position, in float32.

    Args:
        heads: Whose first dims, two for each angle, are turned; the rest stay.
        by: Cosine and sine.
        interleaved: Whether a pair is (2i, 2i + 1) rather than (i, i + half).
    """
    cos, sin = (table[:, :, None] for table in by)
    dims = 2 * cos.shape[-1]
    turning = heads[..., :dims].astype(jnp.float32)
    if interleaved:
        first, second = turning[..., ::2], turning[..., 1::2]
    else:
        first, second = jnp.split(turning, 2, axis=-1)
    pair = first * cos - second * sin, second * cos + first * sin
    turned = (
        jnp.stack(pair, axis=-1).reshape(turning.shape)
        if interleaved
        else jnp.concatenate(pair, axis=-1)
    )
    return jnp.concatenate([turned.astype(heads.dtype), heads[..., dims:]], axis=-1)
