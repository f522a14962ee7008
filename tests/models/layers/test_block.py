import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from ilo_jax.models.config import AttentionConfig, BlockConfig, MlpConfig, Norm
from ilo_jax.models.layers.block import Block
from ilo_jax.models.layers.layout import Layout, Places, layout
from ilo_jax.models.sites import Visiting
from tests.models.variants import TOLERANCE

DIM = 8
CONFIG = BlockConfig(
    attention=AttentionConfig(heads=2, kv_heads=1, head_dim=4, scale=0.5),
    mlp=MlpConfig(dim=12, activation="silu", gated=True),
    norm=Norm(kind="rms", eps=1e-3),
    norm_place="pre",
)
PARALLEL = dataclasses.replace(CONFIG, parallel=True)


def placed(place: str) -> BlockConfig:
    return dataclasses.replace(CONFIG, norm_place=place)


def pre(x, attn, mlp, norm):
    x = x + attn(norm["attn_norm"](x))
    return x + mlp(norm["mlp_norm"](x))


def post(x, attn, mlp, norm):
    x = norm["attn_norm"](x + attn(x))
    return norm["mlp_norm"](x + mlp(x))


def out(x, attn, mlp, norm):
    x = x + norm["attn_out_norm"](attn(x))
    return x + norm["mlp_out_norm"](mlp(x))


def sandwich(x, attn, mlp, norm):
    x = x + norm["attn_out_norm"](attn(norm["attn_norm"](x)))
    return x + norm["mlp_out_norm"](mlp(norm["mlp_norm"](x)))


def parallel(x, attn, mlp, norm):
    return x + attn(norm["attn_norm"](x)) + mlp(norm["mlp_norm"](x))


def shared(x, attn, mlp, norm):
    return x + attn(norm["attn_norm"](x)) + mlp(norm["attn_norm"](x))


DEFINITIONS: dict[str, tuple[BlockConfig, set[str], Callable[..., Array]]] = {
    "pre": (CONFIG, {"attn_norm", "mlp_norm"}, pre),
    "post": (placed("post"), {"attn_norm", "mlp_norm"}, post),
    "out": (placed("out"), {"attn_out_norm", "mlp_out_norm"}, out),
    "sandwich": (
        placed("sandwich"),
        {"attn_norm", "attn_out_norm", "mlp_norm", "mlp_out_norm"},
        sandwich,
    ),
    "parallel": (PARALLEL, {"attn_norm", "mlp_norm"}, parallel),
    "shared": (dataclasses.replace(PARALLEL, shared_norm=True), {"attn_norm"}, shared),
}


def drawn(config: BlockConfig, *, dtype=jnp.float32) -> Block:
    """Return a block with all its weights drawn at random, those of the norms too."""
    block = Block(config, dim=DIM, dtype=dtype, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    state = nnx.state(block, nnx.Param)
    nnx.update(block, jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), w.dtype), state))
    return block


def batch(config: BlockConfig, *, dtype=jnp.float32) -> tuple[Array, Layout]:
    hidden = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, DIM)), dtype)
    positions = jnp.asarray([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])
    segments = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 2, 2, 2]])
    return hidden, layout([config.attention], Places(positions, segments), causal=True)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_norms_stand_where_the_definition_has_them(name):
    config, names, definition = DEFINITIONS[name]
    block = drawn(config)
    hidden, at = batch(config)
    norms = {key: getattr(block, key) for key in DEFINITIONS["sandwich"][1]}
    assert {key for key, norm in norms.items() if norm is not None} == names
    expected = definition(hidden, lambda x: block.attn(x, at), block.mlp, norms)
    got = block(hidden, at)
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
    for other, (_, needed, wrong) in DEFINITIONS.items():
        if other != name and needed <= names:
            different = wrong(hidden, lambda x: block.attn(x, at), block.mlp, norms)
            assert np.abs(different - expected).max() > 0.1


@pytest.mark.parametrize("name", DEFINITIONS)
def test_neurons_shown_are_those_that_update_the_stream(name):
    config, _, definition = DEFINITIONS[name]
    block = drawn(config)
    hidden, at = batch(config)
    norms = {key: getattr(block, key) for key in DEFINITIONS["sandwich"][1]}
    neurons = []

    def mlp(normed: Array) -> Array:
        assert block.mlp.gate is not None
        neurons.append(jax.nn.silu(block.mlp.gate(normed)) * block.mlp.up(normed))
        return block.mlp.down(neurons[0])

    expected = definition(hidden, lambda x: block.attn(x, at), mlp, norms)
    here = Visiting(lambda site, given, value: (value, value), {"neurons": ()})
    got = block(hidden, at, here)
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
    ((key, shown),) = here.shown.items()
    assert key == "neurons"
    assert shown.shape == (2, 5, 12)
    assert np.abs(shown - neurons[0]).max() <= TOLERANCE * np.abs(neurons[0]).max()
    np.testing.assert_array_equal(got, block(hidden, at))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_what_is_shown_of_both_layers_is_what_they_add(name):
    """So that without it, by an edit to zero, the stream goes on as if they were not there."""
    config, _, definition = DEFINITIONS[name]
    block = drawn(config)
    hidden, at = batch(config)
    norms = {key: getattr(block, key) for key in DEFINITIONS["sandwich"][1]}
    # A norm of nothing is its bias, and this one has none.
    nothing = {
        "attn_out": definition(hidden, jnp.zeros_like, block.mlp, norms),
        "mlp_out": definition(hidden, lambda x: block.attn(x, at), jnp.zeros_like, norms),
    }
    for site, expected in nothing.items():
        got = block(hidden, at, lambda name, value, site=site: value * (name != site))
        assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_block_keeps_the_dtype_of_the_stream():
    hidden, at = batch(CONFIG, dtype=jnp.bfloat16)
    block = drawn(CONFIG, dtype=jnp.bfloat16)
    sites: dict[str, Any] = dict.fromkeys(
        ("attn_out", "heads", "neurons", "mlp_out", "mlp/down/output"), ()
    )
    here = Visiting(lambda site, given, value: (value, value.dtype), sites)
    assert block(hidden, at, here).dtype == jnp.bfloat16
    assert here.shown == dict.fromkeys(sites, jnp.dtype(jnp.bfloat16))


def test_paths_name_the_weights():
    config = dataclasses.replace(
        placed("sandwich"),
        attention=dataclasses.replace(
            CONFIG.attention, qkv_bias=True, out_bias=True, qk_norm=Norm(kind="rms", eps=1e-3)
        ),
        mlp=dataclasses.replace(CONFIG.mlp, bias=True),
    )
    flat = nnx.to_flat_state(nnx.state(drawn(config), nnx.Param))
    names = {f"attn/{p}/{w}" for p in "qkvo" for w in ("kernel", "bias")}
    names |= {f"mlp/{p}/{w}" for p in ("gate", "up", "down") for w in ("kernel", "bias")}
    names |= {"attn/q_norm/scale", "attn/k_norm/scale"}
    names |= {f"{p}{kind}_norm/scale" for p in ("attn", "mlp") for kind in ("", "_out")}
    assert {"/".join(map(str, path)) for path, _ in flat} == names
