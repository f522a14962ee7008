"""Two rows of segments for tests of attention, and who sees whom in them."""

import jax.numpy as jnp
import numpy as np

from ilo_jax.models.config import AttentionConfig
from ilo_jax.models.layers.layout import Layout, Places, layout
from ilo_jax.models.rotary import Rope

SEGMENTS = np.array([[1, 1, 2, 2, 2, 2, 2, 0], [1, 2, 3, 3, 0, 0, 0, 0]])
POSITIONS = np.array([[0, 1, 0, 1, 2, 3, 4, 0], [0, 0, 0, 1, 0, 1, 2, 3]])
PLACES = Places(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS))
BATCH, SEQ = SEGMENTS.shape
CONFIG = AttentionConfig(heads=4, kv_heads=2, head_dim=6, scale=0.5)
ROPE = Rope(theta=50.0, dims=4)


def at(*kinds: AttentionConfig, causal: bool = True) -> Layout:
    return layout(kinds, PLACES, causal=causal)


def seen(b: int, q: int, *, causal: bool, window: int | None) -> list[int]:
    """To which tokens one may attend."""
    last = q if causal else SEQ - 1
    return [
        k
        for k in range(last + 1)
        if SEGMENTS[b, k] == SEGMENTS[b, q] and (window is None or q - k < window)
    ]
