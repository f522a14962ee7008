"""What a step of training costs, counted from shapes: the floor that no code goes below."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.flops import block_weights
from ilo_jax.training.freezing import lowest_block


class Cost(NamedTuple):
    """Operations of the matrix products of one step, two for each product and sum."""

    forward: int
    """From the tokens, or the states of the frozen blocks, to the scores of the vocabulary."""
    backward: int
    """Back to the lowest block that trains: gradients of activations, and of what trains."""

    @property
    def total(self) -> int:
        """Of both."""
        return self.forward + self.backward


def step_cost(
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    frozen: Mapping[str, bool],
    *,
    rows: int,
    row_length: int,
    cached: bool = False,
    remat: bool = False,
) -> Cost:
    """Return the operations of one step of a causal language model.

    Each position of a row counts, padding too, and each pair of them in attention. The
    optimizer, norms and softmax are left out. (Kaplan et al. 2020, section 2.1, with
    attention, and with the weights that do not train taken off.)

    Args:
        config: of the model.
        shapes: of every weight, by path.
        frozen: whether each weight is.
        rows: of a batch.
        row_length: in tokens.
        cached: whether the states of the frozen first blocks are there already.
        remat: whether blocks are computed again on the way back.
    """
    tokens, lowest = rows * row_length, lowest_block(config, frozen)
    blocks = [_block(config, i, row_length) * tokens for i in range(config.layers)]
    head = 2 * tokens * config.vocab * (config.embedding.inner_dim or config.dim)
    forward = sum(blocks[lowest if cached else 0 :]) + head
    learnt = [path for path, is_frozen in frozen.items() if not is_frozen]
    kernels = sum(math.prod(shapes[path]) for path in learnt if path.endswith("kernel"))
    if config.head.kind == "tied" and "embed/tokens/embedding" in learnt:
        kernels += math.prod(shapes["embed/tokens/embedding"])
    through = head if any(not path.startswith("head/") for path in learnt) else 0
    backward = sum(blocks[lowest:]) * (1 + remat) + through + 2 * tokens * kernels
    # Of the two products of attention both sides have a gradient.
    backward += sum(_pairs(config, i, row_length) * tokens for i in range(lowest, config.layers))
    return Cost(forward, backward)


def _block(config: ModelConfig, block: int, row_length: int) -> int:
    """Return the operations of a block for one token."""
    weights = block_weights(config.blocks[block], dim=config.dim)
    return 2 * weights + _pairs(config, block, row_length)


def _pairs(config: ModelConfig, block: int, row_length: int) -> int:
    attention = config.blocks[block].attention
    return 4 * attention.heads * attention.head_dim * row_length
