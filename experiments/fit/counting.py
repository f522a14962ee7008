"""What needs no compiler: the memory of what a model computes, roughly, by its shapes."""

import math
from typing import NamedTuple

from ilo_jax.models.config import BlockConfig, ModelConfig
from ilo_jax.models.flops import block_weights
from ilo_jax.sharding import AnyMesh

WIDE = 4
"""Arrays of the model's width that a block holds of its tokens, about."""


class Activations(NamedTuple):
    """Numbers that a device holds of what a model makes, roughly."""

    token: int
    """Of each token, in a block."""
    weights: int
    """Of weights, cast or gathered for as long as they are needed."""


def activations(config: ModelConfig, mesh: AnyMesh, *, fsdp: bool) -> Activations:
    """What the widest block of a model takes beside the weights as they lie.

    Args:
        config: Of the model.
        mesh: Over whose "model" heads, and the inside of an MLP, are split.
        fsdp: Whether weights are split over "data", too: then the vocabulary's is gathered.
    """
    ways = mesh.shape["model"]
    inside = max(map(_inside, config.blocks))
    block = max(block_weights(block, dim=config.dim) for block in config.blocks)
    table = config.vocab * (config.embedding.inner_dim or config.dim)
    weights = max(block, table) if fsdp else block
    return Activations(WIDE * config.dim + math.ceil(inside / ways), math.ceil(weights / ways))


def _inside(block: BlockConfig) -> int:
    attention = block.attention
    heads = attention.heads + 2 * attention.kv_heads
    return heads * attention.head_dim + (3 if block.mlp.gated else 2) * block.mlp.dim
