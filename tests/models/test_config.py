import dataclasses
import re

import pytest

from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
)
from ilo_jax.models.rotary import Rope

NORM = Norm(kind="rms", eps=1e-5)
ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=6, scale=0.5)
BLOCK = BlockConfig(
    attention=ATTENTION, mlp=MlpConfig(dim=12, activation="silu"), norm=NORM, norm_place="pre"
)
PARALLEL = "parallel blocks need norm_place 'pre', and a shared norm needs a parallel block"


def test_sizes_of_a_model_are_those_of_its_parts():
    config = ModelConfig(
        causal=True,
        embedding=EmbeddingConfig(vocab=10, dim=8, inner_dim=4),
        blocks=(BLOCK,) * 3,
        final_norm=NORM,
        head=HeadConfig(kind="tied"),
        max_positions=None,
    )
    assert (config.layers, config.dim, config.vocab) == (3, 8, 10)


def test_configs_of_equal_mechanisms_are_one_key():
    """The layout of a model is computed once per distinct attention."""
    assert len({ATTENTION, dataclasses.replace(ATTENTION)}) == 1


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (NORM, {"kind": "batch"}, 'kind of a norm must be "rms" or "layer", got \'batch\''),
        (ATTENTION, {"kv_heads": 3}, "heads (4) must be a multiple of kv_heads, 3"),
        (
            ATTENTION,
            {"rope": Rope(theta=5.0, dims=8)},
            "rotary dims (8) must be at most head_dim, 6",
        ),
        (
            ATTENTION,
            {"qk_norm_over": "heads"},
            "qk_norm_over must be one of ('head', 'each', 'all'), got 'heads'",
        ),
        (
            EmbeddingConfig(vocab=10, dim=3),
            {"positions": "sinusoidal"},
            "sinusoidal positions need at least 4 dims, got 3",
        ),
        (BLOCK, {"norm_place": "in"}, "norm_place must be one of ('pre', 'post', 'out', "),
        (BLOCK, {"parallel": True, "norm_place": "post"}, PARALLEL),
        (BLOCK, {"parallel": True, "norm_place": "out"}, PARALLEL),
        (BLOCK, {"parallel": True, "norm_place": "sandwich"}, PARALLEL),
        (BLOCK, {"shared_norm": True}, PARALLEL),
        (
            EmbeddingConfig(vocab=10, dim=8),
            {"positions": "rope"},
            "positions must be one of ('none', 'learned', 'sinusoidal'), got 'rope'",
        ),
        (
            HeadConfig(kind="tied"),
            {"kind": "free"},
            'kind of a head must be "tied", "own" or "none", got \'free\'',
        ),
    ],
)
def test_impossible_mechanism_is_refused(config, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        dataclasses.replace(config, **change)
