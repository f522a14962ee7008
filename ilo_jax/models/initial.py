"""The matrices and tables of a model from scratch, drawn as the authors of its family draw them."""

import math
import re
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ilo_jax.models.config import ModelConfig

ADDED = re.compile(r"layers/\d+/(attn/o|mlp/down)/kernel")
"""The matrices whose products a block adds to the residual stream."""


def initial_weights(
    config: ModelConfig, shapes: Mapping[str, jax.ShapeDtypeStruct], key: jax.Array
) -> dict[str, jax.Array]:
    """Random matrices and tables by path; norms and biases start as their layers have them.

    Each is normal, with mean 0 and the spread of `config.init`, and depends on the key and its
    path alone. Source: `_init_weights` of each family in `transformers`. That also zeroes the row
    of the padding token, which no packed row has: here it is drawn like the others.

    Args:
        config: Of the model.
        shapes: Shape and dtype of every weight, by path.
        key: Of all of them.
    """
    drawn = {}
    for path, like in shapes.items():
        if path.endswith(("/kernel", "/embedding")):
            own = jax.random.fold_in(key, zlib.crc32(path.encode()))
            noise = jax.random.normal(own, like.shape, jnp.float32)
            drawn[path] = (spread(config, path) * noise).astype(like.dtype)
    return drawn


def spread(config: ModelConfig, path: str) -> float:
    """The standard deviation with which a matrix or table is drawn."""
    narrower = config.init.by_depth and ADDED.fullmatch(path)
    return config.init.std / (math.sqrt(2 * config.layers) if narrower else 1)
