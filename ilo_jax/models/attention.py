"""Attention inside the segments of packed rows, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.models.config import Rope

Rotation = tuple[Float[Array, "batch seq half"], Float[Array, "batch seq half"]]
"""Cosine and sine of every position's angles."""


def matmul_precision(dtype: DTypeLike) -> jax.lax.Precision:
    """Return the precision that keeps float32 products float32 on every backend."""
    exact = jnp.dtype(dtype) == jnp.float32
    return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT


def segment_mask(
    segments: Int[Array, "batch seq"], *, causal: bool
) -> Bool[Array, "batch seq seq"]:
    """Return who may attend to whom: True at [b, q, k] inside one segment.

    Padding is a segment of its own, so that no row of the mask is empty.
    """
    same = segments[:, :, None] == segments[:, None, :]
    return same & jnp.tri(segments.shape[1], dtype=bool)[None] if causal else same


def rope_frequencies(rope: Rope, *, head_dim: int) -> Float[np.ndarray, " half"]:
    """Return the angle per position of each rotated pair, in radians.

    Source: Su et al. 2021, section 3.4.2; the scaling is that of Llama 3.1, which
    interpolates between kept and stretched frequencies by wavelength.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.float32(rope.theta) ** exponents
    if rope.scaling is None:
        return frequencies
    low, high = rope.scaling.low_freq_factor, rope.scaling.high_freq_factor
    turns = rope.scaling.original_positions * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (frequencies * (kept + (1 - kept) / rope.scaling.factor)).astype(np.float32)


def rotation(
    positions: Int[Array, "batch seq"], frequencies: Float[np.ndarray, " half"]
) -> Rotation:
    """Return cosine and sine of every position's angles, in float32."""
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies)[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    heads: Float[Array, "batch seq head dim"], by: Rotation
) -> Float[Array, "batch seq head dim"]:
    """Turn pairs (i, i + dim/2) of each head by the angles of its position."""
    cos, sin = (table[:, :, None].astype(heads.dtype) for table in by)
    first, second = jnp.split(heads, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(
    query: Float[Array, "batch seq head dim"],
    key: Float[Array, "batch seq kv dim"],
    value: Float[Array, "batch seq kv dim"],
    mask: Bool[Array, "batch seq seq"],
) -> Float[Array, "batch seq head dim"]:
    """Scaled dot-product attention; consecutive query heads share a key/value head.

    Scores and softmax are float32 whatever the dtype of the arguments.
    """
    batch, seq, head, dim = query.shape
    grouped = query.reshape(batch, seq, key.shape[2], -1, dim)
    precision = matmul_precision(query.dtype)
    scores = jnp.einsum(
        "bqhgd,bkhd->bhgqk",
        grouped,
        key,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    scores = jnp.where(mask[:, None, None], scores / np.sqrt(dim), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("bhgqk,bkhd->bqhgd", weights, value, precision=precision)
    return mixed.reshape(batch, seq, head, dim)


class Attention(nnx.Module):
    """Projections around `attend`, with rotary positions if a rotation is given."""

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        bias: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=bias,
                dtype=dtype,
                param_dtype=dtype,
                precision=matmul_precision(dtype),
                rngs=rngs,
            )

        self.head_dim = head_dim
        self.q = linear(dim, heads * head_dim)
        self.k = linear(dim, kv_heads * head_dim)
        self.v = linear(dim, kv_heads * head_dim)
        self.o = linear(heads * head_dim, dim)

    def __call__(
        self,
        hidden: Float[Array, "batch seq dim"],
        mask: Bool[Array, "batch seq seq"],
        by: Rotation | None,
    ) -> Float[Array, "batch seq dim"]:
        """Return the block's update of the residual stream."""
        batch, seq, _ = hidden.shape
        query, key, value = (
            projection(hidden).reshape(batch, seq, -1, self.head_dim)
            for projection in (self.q, self.k, self.v)
        )
        if by is not None:
            query, key = rotate(query, by), rotate(key, by)
        return self.o(attend(query, key, value, mask).reshape(batch, seq, -1))
