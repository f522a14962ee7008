"""The matrices and tables of a model from scratch, drawn as the authors of its family draw them."""

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

ADDED = re.compile(r"layers/\d+/(attn/o|mlp/down)/kernel")
"""The matrices whose products a block adds to the residual stream."""


@dataclass(frozen=True, kw_only=True)
class Init:
    """How a model from scratch begins: norms as the identity, biases at 0, the rest drawn."""

    std: float = 0.02
    """Standard deviation of every matrix and table, which are normal with mean 0."""
    by_depth: bool = False
    """Whether what a block adds to the residual stream is drawn sqrt(2 * blocks) times as narrow
    (Radford et al. 2019, section 2.3)."""

    def __post_init__(self):
        if self.std < 0:
            raise ValueError(f"the spread of initial weights must be at least 0, got {self.std}")


def initial_weights(
    init: Init, shapes: Mapping[str, jax.ShapeDtypeStruct], key: jax.Array, *, layers: int
) -> dict[str, jax.Array]:
    """Random matrices and tables by path; norms and biases start as their layers have them.

    Each is normal, with mean 0 and its `spread`, and depends on the key and its path alone.
    Source: `_init_weights` of each family in `transformers`. That also zeroes the row of the
    padding token, which no packed row has: here it is drawn like the others.

    Args:
        init: How wide they are drawn.
        shapes: Shape and dtype of every weight, by path.
        key: Of all of them.
        layers: How many blocks the model has.
    """
    drawn = {}
    for path, like in shapes.items():
        if path.endswith(("/kernel", "/embedding")):
            own = jax.random.fold_in(key, zlib.crc32(path.encode()))
            noise = jax.random.normal(own, like.shape, jnp.float32)
            drawn[path] = (spread(init, path, layers=layers) * noise).astype(like.dtype)
    return drawn


def spread(init: Init, path: str, *, layers: int) -> float:
    """The standard deviation with which a matrix or table is drawn."""
    narrower = init.by_depth and ADDED.fullmatch(path)
    return init.std / (math.sqrt(2 * layers) if narrower else 1)
