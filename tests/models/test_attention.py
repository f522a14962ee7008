import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ilo_jax.models.attention import (
    attend,
    matmul_precision,
    rope_frequencies,
    rotate,
    rotation,
    segment_mask,
)
from ilo_jax.models.config import Llama3Scaling, Rope

TOLERANCE = 1e-6

SEGMENTS = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 3, 0, 0, 0]])
SCALING = Llama3Scaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(scores: list[float]) -> np.ndarray:
    weights = np.exp(np.array(scores) - max(scores))
    return weights / weights.sum()


def test_float32_products_are_exact_and_others_fast():
    assert matmul_precision(jnp.float32) == jax.lax.Precision.HIGHEST
    assert matmul_precision(jnp.bfloat16) == jax.lax.Precision.DEFAULT


@pytest.mark.parametrize("causal", [False, True])
def test_mask_against_the_definition(causal):
    mask = segment_mask(jnp.asarray(SEGMENTS), causal=causal)
    batch, seq = SEGMENTS.shape
    assert mask.shape == (batch, seq, seq)
    for b, q, k in itertools.product(range(batch), range(seq), range(seq)):
        together = SEGMENTS[b, q] == SEGMENTS[b, k]
        assert mask[b, q, k] == (together and (k <= q or not causal))


@pytest.mark.parametrize("kv", [1, 2, 4])
def test_attend_against_the_definition(kv):
    batch, seq, head, dim = 2, 6, 4, 3
    query = normal(batch, seq, head, dim)
    key, value = normal(2, batch, seq, kv, dim, seed=1)
    mask = segment_mask(jnp.asarray(SEGMENTS), causal=True)
    got = attend(jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), mask)
    expected = np.zeros((batch, seq, head, dim))
    for b, q, h in itertools.product(range(batch), range(seq), range(head)):
        shared = h // (head // kv)
        seen = [k for k in range(seq) if mask[b, q, k]]
        scores = [float(np.dot(query[b, q, h], key[b, k, shared])) / dim**0.5 for k in seen]
        expected[b, q, h] = softmax(scores) @ value[b, seen, shared].astype(np.float64)
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_bfloat16_scores_are_float32():
    """With keys 256 and 257 times the query, bfloat16 scores would tie."""
    query = jnp.ones((1, 2, 1, 2), jnp.bfloat16)
    key = jnp.asarray([[[[128.0, 128.0]], [[128.0, 129.0]]]], jnp.bfloat16)
    value = jnp.asarray([[[[1.0, 0.0]], [[0.0, 1.0]]]], jnp.bfloat16)
    got = attend(query, key, value, jnp.ones((1, 2, 2), bool))
    assert got.dtype == jnp.bfloat16
    expected = softmax([256 / 2**0.5, 257 / 2**0.5])
    assert np.abs(got[0, 0, 0].astype(np.float32) - expected).max() <= 2**-8


@pytest.mark.parametrize("head_dim", [2, 8, 64])
def test_plain_frequencies_are_a_geometric_series(head_dim):
    got = rope_frequencies(Rope(theta=500.0, scaling=None), head_dim=head_dim)
    expected = [500.0 ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    assert got.dtype == np.float32
    assert np.abs(got / expected - 1).max() <= TOLERANCE


def test_scaled_frequencies_in_the_three_regimes():
    plain = rope_frequencies(Rope(theta=1e4, scaling=None), head_dim=16).astype(np.float64)
    scaled = rope_frequencies(Rope(theta=1e4, scaling=SCALING), head_dim=16)
    regimes = []
    for before, after in zip(plain, scaled, strict=True):
        length = 2 * np.pi / before
        if length < 64 / 4:
            expected, regime = before, "kept"
        elif length > 64 / 1:
            expected, regime = before / 8, "stretched"
        else:
            smooth = (64 / length - 1) / (4 - 1)
            expected, regime = (1 - smooth) * before / 8 + smooth * before, "between"
        assert abs(after / expected - 1) <= TOLERANCE
        regimes.append(regime)
    assert regimes == ["kept"] + ["between"] * 2 + ["stretched"] * 5


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_scaled_frequencies_of_llama_3_by_torch(factor):
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(head_dim=128, rope_parameters=parameters)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device=None)
    scaling = Llama3Scaling(
        factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=8192
    )
    got = rope_frequencies(Rope(theta=500000.0, scaling=scaling), head_dim=128)
    assert np.abs(got / expected.numpy() - 1).max() <= TOLERANCE


def test_plain_frequencies_by_torch():
    parameters = {"rope_type": "default", "rope_theta": 500000.0}
    config = LlamaConfig(head_dim=64, rope_parameters=parameters)
    expected = LlamaRotaryEmbedding(config).inv_freq
    got = rope_frequencies(Rope(theta=500000.0, scaling=None), head_dim=64)
    assert np.abs(got / expected.numpy() - 1).max() <= TOLERANCE


def test_rotate_turns_complex_numbers():
    heads, positions = normal(2, 5, 3, 8), np.array([[0, 1, 2, 3, 4], [0, 1, 0, 1, 30]])
    frequencies = rope_frequencies(Rope(theta=500.0, scaling=None), head_dim=8)
    got = rotate(jnp.asarray(heads), rotation(jnp.asarray(positions), frequencies))
    pairs = heads[..., :4] + 1j * heads[..., 4:].astype(np.float64)
    angles = positions[:, :, None, None] * frequencies.astype(np.float64)
    turned = pairs * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    # An angle of 30 has an error of half a unit in its last place, 1e-6.
    assert np.abs(got - expected).max() <= 2 * TOLERANCE * np.abs(expected).max()


def test_rotation_is_float32_and_rotate_keeps_the_dtype():
    by = rotation(jnp.arange(4)[None], rope_frequencies(Rope(theta=5.0, scaling=None), head_dim=2))
    assert by[0].dtype == by[1].dtype == jnp.float32
    assert rotate(jnp.ones((1, 4, 1, 2), jnp.bfloat16), by).dtype == jnp.bfloat16


def test_rotated_products_depend_on_the_distance_only():
    heads = normal(2, 1, 1, 8)
    frequencies = rope_frequencies(Rope(theta=500.0, scaling=SCALING), head_dim=8)

    def product(*positions: int) -> float:
        by = rotation(jnp.asarray(positions)[:, None], frequencies)
        query, key = np.asarray(rotate(jnp.asarray(heads), by), np.float64)[:, 0, 0]
        return float(query @ key)

    assert product(9, 2) == pytest.approx(product(7, 0), abs=1e-5)
    assert product(7, 2) != pytest.approx(product(7, 0), abs=1e-2)
