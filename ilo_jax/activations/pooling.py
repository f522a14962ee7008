"""From the token states of packed rows to one vector per sentence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from ilo_jax.compiling.parts import part


@part("count")
def mean(
    hidden: Float[Array, "batch seq dim"], segments: Int[Array, "batch seq"], *, count: int
) -> Float32[Array, "batch segment dim"]:
    """The mean over each segment's tokens.

    With special tokens included it is the sentence embedding of Wilie et al. 2025 (section
    3); without them, give them segment 0. Summed in float32 whatever the dtype of the
    states. What else is in the row changes nothing, unless it is not finite.

    Args:
        hidden: Token states.
        segments: Of each token, from 1; 0 is padding.
        count: How many segments to return; those a row does not have are zero.
    """
    member = _members(segments, count)
    sums = jnp.einsum(
        "bns,bsd->bnd",
        member.astype(hidden.dtype),
        hidden,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return sums / jnp.maximum(member.sum(-1), 1)[..., None].astype(jnp.float32)


@part("count")
def last(
    hidden: Float[Array, "batch seq dim"], segments: Int[Array, "batch seq"], *, count: int
) -> Float32[Array, "batch segment dim"]:
    """The state of each segment's last token.

    Args:
        hidden: Token states.
        segments: Of each token, from 1; 0 is padding.
        count: How many segments to return; those a row does not have are zero.
    """
    member = _members(segments, count)
    place = jnp.max(jnp.where(member, jnp.arange(segments.shape[1])[None, None], 0), axis=-1)
    found = jnp.take_along_axis(hidden, place[..., None], axis=1).astype(jnp.float32)
    return jnp.where(member.any(-1)[..., None], found, 0)


@part("count")
def maximum(
    hidden: Float[Array, "batch seq dim"], segments: Int[Array, "batch seq"], *, count: int
) -> Float32[Array, "batch segment dim"]:
    """The largest value of each dimension over each segment's tokens.

    Args:
        hidden: Token states.
        segments: Of each token, from 1; 0 is padding.
        count: How many segments to return; those a row does not have are zero.
    """
    highest = jax.vmap(lambda x, ids: jax.ops.segment_max(x, ids, num_segments=count + 1))
    found = highest(hidden, segments)[:, 1:].astype(jnp.float32)
    return jnp.where(_members(segments, count).any(-1)[..., None], found, 0)


def _members(segments: Int[Array, "batch seq"], count: int) -> Bool[Array, "batch segment seq"]:
    return segments[:, None] == jnp.arange(1, count + 1)[None, :, None]
