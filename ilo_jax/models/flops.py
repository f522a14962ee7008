"""How many operations a model takes, counted from its shapes."""

import numpy as np
from jaxtyping import Int

from ilo_jax.models.config import BlockConfig, ModelConfig
from ilo_jax.models.layers.spans import compared


def block_weights(block: BlockConfig, *, dim: int) -> int:
    """How many weights a token is multiplied with in one block."""
    attention = block.attention
    heads = 2 * attention.heads + 2 * attention.kv_heads
    return dim * (heads * attention.head_dim + (3 if block.mlp.gated else 2) * block.mlp.dim)


def pair_flops(block: BlockConfig, row_length: int, *, causal: bool) -> int:
    """The operations of attention's products of tokens with tokens, for a row of a block.

    Args:
        block: Of a model.
        row_length: In tokens.
        causal: Whether a token sees only itself and those before it.
    """
    attention = block.attention
    pairs = compared(row_length, causal=causal, window=attention.window)
    return 4 * attention.heads * attention.head_dim * pairs


def forward_flops(config: ModelConfig, lengths: Int[np.ndarray, " sent"]) -> int:
    """The operations that the hidden states of sentences need, the head left out.

    Two for each weight and token; and in attention four for each pair of tokens of a sentence
    (of a window, where there is one) and dimension of a head: masked pairs count too, as in
    Chowdhery et al. 2022 (PaLM), appendix B. Norms, softmax and the like are left out, and so
    is what padding and packing add: this is what the model needs, not what is computed.

    Args:
        config: Of the model.
        lengths: Tokens of each sentence.
    """
    lengths = np.asarray(lengths, np.int64)
    inner = config.embedding.inner_dim
    weights = inner * config.dim if inner else 0
    pairs = 0
    for block in config.blocks:
        attention = block.attention
        weights += block_weights(block, dim=config.dim)
        seen = lengths if attention.window is None else np.minimum(lengths, attention.window)
        pairs += attention.heads * attention.head_dim * int((lengths * seen).sum())
    return 2 * weights * int(lengths.sum()) + 4 * pairs
