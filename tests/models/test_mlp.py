import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models.mlp import ACTIVATIONS, Mlp

TOLERANCE = 1e-6

DEFINITIONS = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_the_exact_ones(name):
    points = np.linspace(-6, 6, 97)
    got = np.asarray(ACTIVATIONS[name](jnp.asarray(points, jnp.float32)))
    expected = [DEFINITIONS[name](x) for x in points]
    assert np.abs(got - expected).max() <= TOLERANCE


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_against_the_definition(gated, bias):
    activation = "silu" if gated else "gelu"
    mlp = Mlp(
        dim=3,
        hidden_dim=5,
        activation=activation,
        gated=gated,
        bias=bias,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    rng = np.random.default_rng(0)
    nnx.update(
        mlp,
        jax.tree.map(
            lambda w: jnp.asarray(rng.normal(size=w.shape), w.dtype), nnx.state(mlp, nnx.Param)
        ),
    )
    hidden = rng.normal(size=(2, 4, 3)).astype(np.float32)

    def linear(layer, x):
        y = x @ np.asarray(layer.kernel[...], np.float64)
        return y + np.asarray(layer.bias[...], np.float64) if bias else y

    act = np.vectorize(DEFINITIONS[activation])
    up = linear(mlp.up, hidden.astype(np.float64))
    inner = act(linear(mlp.gate, hidden.astype(np.float64))) * up if gated else act(up)
    expected = linear(mlp.down, inner)
    assert np.abs(mlp(jnp.asarray(hidden)) - expected).max() <= TOLERANCE * np.abs(expected).max()
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(mlp, nnx.Param))}
    parts = ["gate", "up", "down"][not gated :]
    assert names == {f"{part}/{w}" for part in parts for w in ["kernel", "bias"][: 1 + bias]}
