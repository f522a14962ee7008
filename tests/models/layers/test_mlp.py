import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models.config import MlpConfig
from ilo_jax.models.layers.mlp import ACTIVATIONS, Mlp
from ilo_jax.models.sites import Visiting

TOLERANCE = 1e-6


def exact_gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def tanh_gelu(x: float) -> float:
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


DEFINITIONS = {
    "gelu": exact_gelu,
    "gelu_fast": tanh_gelu,
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_against_the_definition(name):
    points = np.linspace(-6, 6, 97)
    got = np.asarray(ACTIVATIONS[name](jnp.asarray(points, jnp.float32)))
    expected = [DEFINITIONS[name](x) for x in points]
    assert np.abs(got - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_against_the_definition(name, gated, bias):
    config = MlpConfig(dim=5, activation=name, gated=gated, bias=bias)
    mlp = Mlp(config, dim=3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    params = nnx.to_flat_state(nnx.state(mlp, nnx.Param))
    for _, param in params:
        param.set_value(jnp.asarray(rng.normal(size=param.shape), jnp.float32))
    hidden = rng.normal(size=(2, 4, 3)).astype(np.float32)

    def linear(layer: nnx.Linear | None, x: np.ndarray) -> np.ndarray:
        assert layer is not None
        y = x @ np.asarray(layer.kernel[...], np.float64)
        return y if layer.bias is None else y + np.asarray(layer.bias[...], np.float64)

    act, x = np.vectorize(DEFINITIONS[name]), hidden.astype(np.float64)
    inner = act(linear(mlp.gate, x)) * linear(mlp.up, x) if gated else act(linear(mlp.up, x))
    expected = linear(mlp.down, inner)
    here = Visiting(lambda site, given, value: (value, value), {"neurons": ()})
    mlp(jnp.asarray(hidden), here)
    neurons = here.shown["neurons"]
    assert neurons.shape == (2, 4, 5)
    assert np.abs(neurons - inner).max() <= TOLERANCE * np.abs(inner).max()
    assert np.abs(mlp(jnp.asarray(hidden)) - expected).max() <= TOLERANCE * np.abs(expected).max()
    parts = ["gate", "up", "down"][not gated :]
    assert {"/".join(map(str, path)) for path, _ in params} == {
        f"{part}/{w}" for part in parts for w in ["kernel", "bias"][: 1 + bias]
    }
