"""What a step of training costs, counted from shapes: the floor that no code goes below."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.flops import block_weights, pair_flops
from ilo_jax.training.freezing import lowest_block


class Cost(NamedTuple):
    """Operations of the matrix products of one step, two for each product and sum."""

    forward: int
    """From the tokens, or the states of the frozen blocks, to the scores of the vocabulary."""
    backward: int
    """Back to the lowest block that trains: gradients of activations, and of what trains."""

    @property
    def total(self) -> int:
        """Operations of a step, forwards and backwards."""
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
    """The operations of one step of a causal language model.

    Each position of a row counts, padding too, and in attention each pair of them that is
    compared (`models.layers.spans`). The optimizer, norms and softmax are left out. (Kaplan et al.
    2020, section 2.1, with attention, and without the weights that do not train.) Exact where
    blocks train or are frozen whole, the first of them frozen; other rules may need a little less
    than it says.

    Args:
        config: Of the model.
        shapes: Of every weight, by path.
        frozen: Whether each weight is.
        rows: Of a batch.
        row_length: In tokens.
        cached: Whether the states of the frozen first blocks are there already.
        remat: Whether blocks are computed again on the way back.
    """
    lowest = lowest_block(config, frozen)
    learnt = [path for path, is_frozen in frozen.items() if not is_frozen]
    blocks = [_block(config, i, row_length) for i in range(config.layers)]
    scores = 2 * row_length * config.vocab * (config.embedding.inner_dim or config.dim)
    # Between the table and the blocks, where they differ in width, and back again.
    project = 2 * row_length * config.dim * (config.embedding.inner_dim or 0)
    forward = sum(blocks[lowest if cached else 0 :]) + scores + project * (1 if cached else 2)
    backward = _through_blocks(config, learnt, row_length)
    if any(not path.startswith("head/") for path in learnt):
        backward += scores + project
    elif "head/project/kernel" in learnt:
        backward += scores
    if "embed/tokens/embedding" in learnt:
        backward += project
    if remat:
        again = _through(config, learnt)
        backward += sum(blocks[i] - row_length * _never_again(config, i) for i in again)
    kernels = sum(math.prod(shapes[path]) for path in learnt if path.endswith("kernel"))
    if config.head.kind == "tied" and "embed/tokens/embedding" in learnt:
        kernels += math.prod(shapes["embed/tokens/embedding"])
    return Cost(rows * forward, rows * (backward + 2 * row_length * kernels))


def _through_blocks(config: ModelConfig, learnt: Sequence[str], row_length: int) -> int:
    """The operations of the gradients of activations in blocks, for one row."""
    below = any(path.startswith("embed/") for path in learnt)
    through = _through(config, learnt)
    # Of the two products of attention both sides have a gradient.
    whole = sum(_block(config, i, row_length) + _pairs(config, i, row_length) for i in through)
    return whole if below or not through else whole - row_length * _entrance(config, through.start)


def _through(config: ModelConfig, learnt: Sequence[str]) -> range:
    """The blocks that gradients go through, from the lowest of which something is learnt on."""
    below = any(path.startswith("embed/") for path in learnt)
    train = [int(path.split("/")[1]) for path in learnt if path.startswith("layers/")]
    return range(0 if below else min(train, default=config.layers), config.layers)


def _entrance(config: ModelConfig, block: int) -> int:
    """What it takes a token to go back from a block's first products to what enters it.

    Nobody asks for that gradient in the lowest block that trains, unless a norm that trains
    comes first.
    """
    this = config.blocks[block]
    if this.norm_place in {"pre", "sandwich"} and (this.norm.scale or this.norm.bias):
        return 0
    attention = this.attention
    width = (attention.heads + 2 * attention.kv_heads) * attention.head_dim
    if this.parallel:
        width += (2 if this.mlp.gated else 1) * this.mlp.dim
    return 2 * config.dim * width


def _never_again(config: ModelConfig, block: int) -> int:
    """What no gradient in a block needs of a token: products that are only added up."""
    this = config.blocks[block]
    if this.norm_place != "pre":
        return 0
    added = this.mlp.dim
    if this.parallel:
        added += this.attention.heads * this.attention.head_dim
    return 2 * config.dim * added


def _block(config: ModelConfig, block: int, row_length: int) -> int:
    """The operations of a block for one row."""
    weights = block_weights(config.blocks[block], dim=config.dim)
    return 2 * weights * row_length + _pairs(config, block, row_length)


def _pairs(config: ModelConfig, block: int, row_length: int) -> int:
    return pair_flops(config.blocks[block], row_length, causal=config.causal)
