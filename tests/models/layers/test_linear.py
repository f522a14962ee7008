import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models.layers.linear import linear, matmul_precision

TOLERANCE = 1e-6


def test_float32_products_are_exact_and_others_fast():
    assert matmul_precision(jnp.float32) == jax.lax.Precision.HIGHEST
    assert matmul_precision(jnp.bfloat16) == jax.lax.Precision.DEFAULT
    assert matmul_precision(jnp.float16) == jax.lax.Precision.DEFAULT


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_and_result_have_the_dtype(dtype, bias):
    layer = linear(3, 5, bias=bias, dtype=dtype, rngs=nnx.Rngs(0))
    assert layer.kernel.shape == (3, 5)
    assert layer.kernel.dtype == dtype
    assert (layer.bias is not None) == bias
    assert layer.precision == matmul_precision(dtype)
    assert layer(jnp.ones((2, 4, 3), dtype)).dtype == dtype


def test_against_the_definition():
    layer = linear(3, 5, bias=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    kernel = np.asarray(layer.kernel[...], np.float64)
    hidden, bias = np.random.default_rng(0).normal(size=(2, 3)), np.arange(5.0)
    nnx.update(layer, nnx.State({"bias": nnx.Param(jnp.asarray(bias, jnp.float32))}))
    got = np.asarray(layer(jnp.asarray(hidden, jnp.float32)))
    for row, values in zip(hidden, got, strict=True):
        expected = [sum(row[i] * kernel[i, j] for i in range(3)) + bias[j] for j in range(5)]
        assert np.abs(values - expected).max() <= TOLERANCE * np.abs(expected).max()
