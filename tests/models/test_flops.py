import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models import parameters
from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
)
from ilo_jax.models.flops import block_weights, forward_flops, pair_flops
from ilo_jax.models.layers import spans
from ilo_jax.models.rotary import Rope
from tests.models.reading import states


def block(
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    neurons: int,
    gated: bool = False,
    window: int | None = None,
) -> BlockConfig:
    rope = Rope(theta=100.0, dims=2 * (head_dim // 2))
    attention = AttentionConfig(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, scale=0.1, rope=rope, window=window
    )
    mlp = MlpConfig(dim=neurons, activation="silu", gated=gated)
    norm = Norm(kind="rms", eps=1e-6)
    return BlockConfig(attention=attention, mlp=mlp, norm=norm, norm_place="pre")


def model(*blocks: BlockConfig, dim: int, inner: int | None = None) -> ModelConfig:
    return ModelConfig(
        causal=True,
        embedding=EmbeddingConfig(vocab=50, dim=dim, inner_dim=inner),
        blocks=blocks,
        final_norm=Norm(kind="rms", eps=1e-6),
        head=HeadConfig(kind="own"),
        max_positions=None,
    )


SMALL = block(heads=4, kv_heads=2, head_dim=3, neurons=5, gated=True)
UNGATED = dataclasses.replace(SMALL, mlp=dataclasses.replace(SMALL.mlp, gated=False))
WINDOWED = dataclasses.replace(SMALL, attention=dataclasses.replace(SMALL.attention, window=2))
LENGTHS = np.array([3, 5], np.int32)
# Weights of queries, keys, values, output; and of gate, up, down.
ATTENTION, MLP = 8 * 12 + 8 * 6 + 8 * 6 + 12 * 8, 8 * 5 + 8 * 5 + 5 * 8
# Two operations for each of 3 dims in a score, as many in the mix; of 4 heads.
PAIR = 4 * (2 * 3 + 2 * 3)


@pytest.mark.parametrize(
    ("blocks", "inner", "expected"),
    [
        ((SMALL,), None, 2 * 8 * (ATTENTION + MLP) + PAIR * (3 * 3 + 5 * 5)),
        ((SMALL,) * 3, None, 3 * 8160),
        ((UNGATED,), None, 2 * 8 * (ATTENTION + MLP - 40) + PAIR * 34),
        ((WINDOWED,), None, 2 * 8 * (ATTENTION + MLP) + PAIR * (3 * 2 + 5 * 2)),
        ((SMALL, WINDOWED, UNGATED), None, 8160 + 7296 + 7520),
        ((SMALL,), 6, 8160 + 2 * 8 * 6 * 8),
        ((), None, 0),
    ],
)
def test_operations_of_small_models_counted_by_hand(blocks, inner, expected):
    assert forward_flops(model(*blocks, dim=8, inner=inner), LENGTHS) == expected


def test_weights_of_a_block_are_those_of_its_products():
    assert block_weights(SMALL, dim=8) == ATTENTION + MLP == 408
    assert block_weights(UNGATED, dim=8) == ATTENTION + MLP - 40
    config = model(SMALL, dim=8)
    shapes = parameters.shapes(parameters.abstract(config, dtype=jnp.float32))
    kernels = [np.prod(like.shape) for path, like in shapes.items() if path.startswith("layers/0")]
    norms = 2 * 8
    assert sum(kernels) == ATTENTION + MLP + norms


def test_a_window_wider_than_a_sentence_changes_nothing():
    wide = dataclasses.replace(SMALL, attention=dataclasses.replace(SMALL.attention, window=5))
    assert forward_flops(model(wide, dim=8), LENGTHS) == 8160


def test_sentences_add_up_and_none_need_nothing():
    config = model(SMALL, WINDOWED, dim=8)
    alone = [forward_flops(config, np.array([n], np.int32)) for n in (3, 5)]
    assert forward_flops(config, LENGTHS) == sum(alone)
    assert forward_flops(config, np.zeros(0, np.int32)) == 0


def test_a_corpus_of_billions_of_tokens_does_not_overflow():
    lengths = np.full(3_000_000, 50_000, np.int32)
    expected = 3_000_000 * (2 * 50_000 * 408 + PAIR * 50_000**2)
    assert forward_flops(model(SMALL, dim=8), lengths) == expected


SIZES = [{"kv_heads": 2, "gated": True}, {"kv_heads": 1, "gated": True}, {"kv_heads": 2}]
SIZES += [{"kv_heads": 1, "gated": True, "window": 128}]
SEQ = 128


def counted(config: ModelConfig) -> float:
    """Return the operations of the hidden states of one row, as XLA counts them."""
    abstract = parameters.abstract(config, dtype=jnp.float32)
    graph, state = nnx.split(abstract)

    def run(state, *rows):
        return states(nnx.merge(graph, state), *rows)

    rows = itertools.repeat(jax.ShapeDtypeStruct((1, SEQ), jnp.int32), 3)
    cost = jax.jit(run).lower(state, *rows).compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


@pytest.mark.parametrize("sizes", SIZES, ids=["gated", "grouped", "plain", "windowed"])
@pytest.mark.parametrize("layers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_xla_counts_as_many_for_a_sentence_that_fills_its_row(monkeypatch, sizes, layers):
    """It counts norms, rotations and softmax, too: so wide a model has few of them."""
    monkeypatch.setattr(spans, "SMALLEST", SEQ)
    one = block(heads=2, head_dim=128, neurons=512, **sizes)
    config = model(*[one] * layers, dim=256)
    expected = forward_flops(config, np.array([SEQ], np.int32))
    assert expected <= counted(config) <= 1.05 * expected


@pytest.mark.parametrize("window", [None, 16])
def test_xla_counts_the_pairs_that_are_compared(monkeypatch, window):
    """Without those that no query of a span may see."""
    monkeypatch.setattr(spans, "SMALLEST", 32)
    one = block(heads=2, kv_heads=2, head_dim=128, neurons=512, window=window)
    config = model(one, dim=256)
    pairs = pair_flops(one, SEQ, causal=True)
    keys = (32, 64, 96, 128) if window is None else (32, 47, 47, 47)
    assert pairs == 4 * 2 * 128 * 32 * sum(keys)
    expected = 2 * SEQ * block_weights(one, dim=256) + pairs
    assert expected <= counted(config) <= 1.05 * expected


def test_an_encoder_compares_all_pairs():
    assert pair_flops(SMALL, 10, causal=False) == PAIR * 100
