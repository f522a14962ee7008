import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models.config import EmbeddingConfig, Norm
from ilo_jax.models.layers.embedding import Embedding, sinusoids

TOLERANCE = 1e-6

TOKENS = np.array([[3, 0, 9, 9, 1], [2, 2, 2, 5, 0]])
POSITIONS = np.array([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])


def embedding(dtype=jnp.float32, **mechanisms) -> Embedding:
    """Return an embedding of random weights."""
    sizes: dict[str, Any] = {"vocab": 10, "dim": 6}
    config = EmbeddingConfig(**sizes | mechanisms)
    module = Embedding(config, dtype=dtype, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for _, param in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        param.set_value(jnp.asarray(rng.normal(size=param.shape), dtype))
    return module


def called(module: Embedding):
    return module(jnp.asarray(TOKENS), jnp.asarray(POSITIONS))


def table(layer: nnx.Embed | None) -> np.ndarray:
    assert layer is not None
    return np.asarray(layer.embedding[...], np.float64)


def waves(position: int, dim: int) -> list[float]:
    """Return sines, then cosines, of wavelengths from 2 pi to 10,000 * 2 pi."""
    half = dim // 2
    rates = [10000 ** (-i / (half - 1)) for i in range(half)]
    angles = [position * rate for rate in rates]
    return [*map(math.sin, angles), *map(math.cos, angles)] + [0.0] * (dim % 2)


def assert_close(got, expected) -> None:
    expected = np.asarray(expected, np.float64)
    assert np.abs(np.asarray(got, np.float64) - expected).max() <= TOLERANCE * max(
        1, np.abs(expected).max()
    )


@pytest.mark.parametrize("dim", [4, 5, 6, 17, 64])
def test_sinusoids_are_the_closed_form(dim):
    got = sinusoids(jnp.asarray(POSITIONS), dim=dim)
    assert got.dtype == jnp.float32
    assert_close(got, [[waves(p, dim) for p in row] for row in POSITIONS.tolist()])


def test_sinusoids_of_far_positions_are_within_the_rounding_of_the_angle():
    got = sinusoids(jnp.asarray([[2000]]), dim=64)
    # An angle of 2000 is off by its rate's rounding times itself.
    assert np.abs(np.asarray(got[0, 0]) - waves(2000, 64)).max() <= 2000 * 2**-23


def test_rows_of_the_table_alone():
    module = embedding()
    assert_close(called(module), table(module.tokens)[TOKENS])


@pytest.mark.parametrize("offset", [0, 2])
def test_learned_positions_begin_at_the_offset(offset):
    module = embedding(positions="learned", rows=4 + offset, offset=offset)
    expected = table(module.tokens)[TOKENS] + table(module.positions)[POSITIONS + offset]
    assert_close(called(module), expected)


@pytest.mark.parametrize("offset", [0, 2])
def test_sinusoidal_positions_begin_at_the_offset(offset):
    module = embedding(positions="sinusoidal", offset=offset, dim=7)
    added = [[waves(p + offset, 7) for p in row] for row in POSITIONS.tolist()]
    assert module.positions is None
    assert_close(called(module), table(module.tokens)[TOKENS] + np.array(added))


def test_all_tokens_are_of_the_first_type():
    module = embedding(token_types=3)
    assert_close(called(module), table(module.tokens)[TOKENS] + table(module.types)[0])


def test_a_narrow_table_is_projected_before_positions_are_added():
    module = embedding(inner_dim=3, positions="learned", rows=4)
    assert module.project is not None
    assert module.tokens.embedding.shape == (10, 3)
    projected = table(module.tokens)[TOKENS] @ np.asarray(module.project.kernel[...], np.float64)
    assert_close(called(module), projected + table(module.positions)[POSITIONS])


def test_only_tokens_are_scaled():
    module = embedding(scale=6**0.5, positions="learned", rows=4)
    expected = table(module.tokens)[TOKENS] * 6**0.5 + table(module.positions)[POSITIONS]
    assert_close(called(module), expected)


def test_scale_is_rounded_to_the_dtype():
    """As transformers does: the square root of 3072 is 55.5 in bfloat16 (Gemma)."""
    module = embedding(dtype=jnp.bfloat16, scale=3072**0.5)
    got = called(module)
    assert got.dtype == jnp.bfloat16
    expected = jnp.asarray(table(module.tokens)[TOKENS] * 55.5, jnp.bfloat16)
    assert np.array_equal(got, expected)


def test_norm_comes_last():
    module = embedding(
        positions="learned", rows=4, token_types=2, norm=Norm(kind="layer", eps=0.1, bias=True)
    )
    assert module.norm is not None
    summed = table(module.tokens)[TOKENS] + table(module.positions)[POSITIONS]
    summed += table(module.types)[0]
    centred = summed - summed.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1)
    assert module.norm.scale is not None
    assert module.norm.bias is not None
    scale, bias = (np.asarray(p[...], np.float64) for p in (module.norm.scale, module.norm.bias))
    assert_close(called(module), normed * scale + bias)


@pytest.mark.parametrize(
    ("mechanisms", "names"),
    [
        ({}, {"tokens"}),
        ({"positions": "sinusoidal"}, {"tokens"}),
        ({"positions": "learned", "rows": 4}, {"tokens", "positions"}),
        ({"token_types": 1, "inner_dim": 3}, {"tokens", "types", "project"}),
    ],
)
def test_only_what_the_mechanisms_need_has_weights(mechanisms, names):
    flat = nnx.to_flat_state(nnx.state(embedding(**mechanisms), nnx.Param))
    assert {str(path[0]) for path, _ in flat} == names
