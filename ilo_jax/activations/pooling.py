"""Taps: from the hidden states of packed rows to one vector per sentence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int


def mean(
    hidden: Float[Array, "batch seq dim"], segments: Int[Array, "batch seq"], *, count: int
) -> Float32[Array, "batch segment dim"]:
    """Return the mean over each segment's tokens, special tokens included.

    The sentence embedding of Wilie et al. 2025 (section 3). Summed in float32
    whatever the dtype of the states. What else is in the row changes nothing, unless it is
    not finite.

    Args:
        hidden: token states.
        segments: of each token, from 1; 0 is padding.
        count: how many segments to return; those a row does not have are zero.
    """
    member = segments[:, None] == jnp.arange(1, count + 1)[None, :, None]
    sums = jnp.einsum(
        "bns,bsd->bnd",
        member.astype(hidden.dtype),
        hidden,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return sums / jnp.maximum(member.sum(-1), 1)[..., None].astype(jnp.float32)
