import dataclasses
import re

import pytest

from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    DynamicScaling,
    EmbeddingConfig,
    HeadConfig,
    LongScaling,
    MlpConfig,
    ModelConfig,
    Norm,
    Rope,
)

NORM = Norm(kind="rms", eps=1e-5)
ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=6, scale=0.5)
BLOCK = BlockConfig(
    attention=ATTENTION, mlp=MlpConfig(dim=12, activation="silu"), norm=NORM, norm_place="pre"
)
LONG = LongScaling(
    short_factor=(1.0, 1.0),
    long_factor=(2.0, 3.0),
    original_positions=16,
    attention_factor=1.0,
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
        (
            Rope(theta=5.0, dims=2),
            {"scaling": DynamicScaling(factor=2.0, original_positions=8)},
            "dynamic scaling needs at least 4 rotary dims, got 2",
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


@pytest.mark.parametrize("dims", [-2, 0, 1, 5])
def test_rotary_dims_come_in_pairs(dims):
    message = f"^rotary positions need an even number of dims, got {dims}$"
    with pytest.raises(ValueError, match=message):
        Rope(theta=500.0, dims=dims)


@pytest.mark.parametrize(
    ("short", "long"), [((1.0,), (2.0, 3.0)), ((1.0, 1.0), (2.0,)), ((), (1.0, 2.0, 3.0))]
)
def test_longrope_has_a_factor_for_every_pair(short, long):
    scaling = dataclasses.replace(LONG, short_factor=short, long_factor=long)
    message = f"short_factor and long_factor must have 2 values, got {len(short)} and {len(long)}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        Rope(theta=500.0, dims=4, scaling=scaling)


def test_longrope_of_every_pair_is_accepted():
    assert Rope(theta=500.0, dims=4, scaling=LONG).scaling == LONG
