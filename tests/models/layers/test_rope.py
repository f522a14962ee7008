import dataclasses
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ilo_jax.models.layers.rope import (
    attention_factor,
    rotate,
    rotation,
    segment_lengths,
    turned_anew,
)
from ilo_jax.models.rotary import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    YarnScaling,
)

TOLERANCE = 1e-6

SEGMENTS = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 3, 0, 0, 0]])
DIMS = 16
ORIGINAL = 64
LINEAR = LinearScaling(factor=4.0)
DYNAMIC = DynamicScaling(factor=4.0, original_positions=ORIGINAL)
LLAMA3 = Llama3Scaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=ORIGINAL
)
YARN = YarnScaling(
    factor=8.0,
    original_positions=ORIGINAL,
    beta_fast=8.0,
    beta_slow=0.5,
    attention_factor=1.25,
    truncate=True,
)
LONG = LongScaling(
    short_factor=tuple(1 + 0.1 * i for i in range(8)),
    long_factor=tuple(2.0 + i for i in range(8)),
    original_positions=ORIGINAL,
    attention_factor=1.19,
)
SCALINGS = [None, LINEAR, DYNAMIC, LLAMA3, YARN, dataclasses.replace(YARN, truncate=False), LONG]
KINDS = {
    LinearScaling: "linear",
    DynamicScaling: "dynamic",
    Llama3Scaling: "llama3",
    YarnScaling: "yarn",
    LongScaling: "longrope",
}


def kind(scaling) -> str:
    return KINDS.get(type(scaling), "default")


def rope(scaling=None, *, theta: float = 1e4, dims: int = DIMS) -> Rope:
    return Rope(theta=theta, dims=dims, scaling=scaling)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def positions_of(segments: np.ndarray) -> np.ndarray:
    rows = [[list(row[:i]).count(s) for i, s in enumerate(row)] for row in segments]
    return np.array(rows)


def frequencies(rope: Rope, *, length: int = 1) -> np.ndarray:
    """Return the angles of position 1 in a sentence of some length; none is above 1."""
    cos, sin = rotation(rope, jnp.full((1, 1), 1), jnp.full((1, 1), length))
    assert cos.dtype == sin.dtype == jnp.float32
    return np.arctan2(np.asarray(sin[0, 0], np.float64), np.asarray(cos[0, 0], np.float64))


def assert_close(got, expected) -> None:
    expected = np.asarray(expected, np.float64)
    assert np.shape(got) == expected.shape
    assert np.abs(got / expected - 1).max() <= TOLERANCE


# Frequencies by their definitions


def series(theta: float = 1e4, dims: int = DIMS) -> list[float]:
    return [theta ** (-2 * i / dims) for i in range(dims // 2)]


@pytest.mark.parametrize("dims", [2, 8, 64])
def test_plain_frequencies_are_a_geometric_series(dims):
    assert_close(frequencies(rope(theta=500.0, dims=dims)), series(500.0, dims))


def test_linear_scaling_divides():
    assert_close(frequencies(rope(LINEAR)), [f / 4 for f in series()])


def test_llama3_has_three_regimes():
    regimes, expected = [], []
    for plain in series():
        wavelength = 2 * math.pi / plain
        if wavelength < ORIGINAL / 4:
            regimes.append("kept")
            expected.append(plain)
        elif wavelength > ORIGINAL / 1:
            regimes.append("stretched")
            expected.append(plain / 8)
        else:
            smooth = (ORIGINAL / wavelength - 1) / (4 - 1)
            regimes.append("between")
            expected.append((1 - smooth) * plain / 8 + smooth * plain)
    assert_close(frequencies(rope(LLAMA3)), expected)
    assert regimes == ["kept"] + ["between"] * 2 + ["stretched"] * 5


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_ramps_between_the_pairs_of_given_turns(truncate):
    """Pair i turns original * theta^(-2i/dims) / (2 pi) times; solved for i."""

    def pair(turns: float) -> float:
        return DIMS / 2 * math.log(ORIGINAL / (2 * math.pi * turns), 1e4)

    low, high = pair(8.0), pair(0.5)
    assert low < 1 < 2 < high
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    # No pair is before the first.
    low = max(low, 0)
    stretched = [min(max((i - low) / (high - low), 0), 1) for i in range(DIMS // 2)]
    assert 0 < stretched[1] < 1
    assert stretched[-1] == 1
    expected = [f * (1 - s) + f / 8 * s for f, s in zip(series(), stretched, strict=True)]
    scaling = dataclasses.replace(YARN, truncate=truncate)
    assert_close(frequencies(rope(scaling)), expected)


def test_yarn_without_a_ramp_is_a_step():
    """Both ends are before the first pair: it is kept, all others are stretched."""
    scaling = dataclasses.replace(YARN, beta_fast=1000.0, beta_slow=10.5, truncate=True)
    expected = [f if i == 0 else f / 8 for i, f in enumerate(series())]
    assert_close(frequencies(rope(scaling)), expected)


@pytest.mark.parametrize("length", [1, ORIGINAL - 1, ORIGINAL])
def test_dynamic_scaling_leaves_short_sentences_as_they_are(length):
    got = frequencies(rope(DYNAMIC), length=length)
    assert np.array_equal(got, frequencies(rope(), length=length))


@pytest.mark.parametrize("length", [ORIGINAL + 1, 2 * ORIGINAL, 1000])
def test_dynamic_scaling_raises_theta_for_long_sentences(length):
    theta = 1e4 * (4 * length / ORIGINAL - 3) ** (DIMS / (DIMS - 2))
    assert_close(frequencies(rope(DYNAMIC), length=length), series(theta))


@pytest.mark.parametrize(
    ("length", "factors"),
    [
        (1, LONG.short_factor),
        (ORIGINAL, LONG.short_factor),
        (ORIGINAL + 1, LONG.long_factor),
        (1000, LONG.long_factor),
    ],
)
def test_longrope_takes_the_long_factors_beyond_the_original_positions(length, factors):
    expected = [f / factor for f, factor in zip(series(), factors, strict=True)]
    assert_close(frequencies(rope(LONG), length=length), expected)


# Frequencies by transformers


def by_torch(rope_type: str, *, length: int | None, head_dim: int, **parameters):
    """Return frequencies and attention factor."""
    config = LlamaConfig(
        head_dim=head_dim,
        max_position_embeddings=256,
        rope_parameters={"rope_type": rope_type, **parameters},
    )
    found, factor = ROPE_INIT_FUNCTIONS[rope_type](config, device=None, seq_len=length)
    return found.numpy(), factor


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("part", [1.0, 0.5])
@pytest.mark.parametrize("length", [200, 300])
@pytest.mark.parametrize("scaling", SCALINGS[1:], ids=kind)
def test_frequencies_by_torch(scaling, length, part, theta):
    if isinstance(scaling, DynamicScaling):
        scaling = dataclasses.replace(scaling, original_positions=256)
    parameters = dataclasses.asdict(scaling) | {"rope_theta": theta, "partial_rotary_factor": part}
    if "original_positions" in parameters:
        parameters["original_max_position_embeddings"] = parameters.pop("original_positions")
    expected, factor = by_torch(
        kind(scaling), length=length, head_dim=int(DIMS / part), **parameters
    )
    ours = rope(scaling, theta=theta)
    assert_close(frequencies(ours, length=length), expected)
    assert attention_factor(ours) == factor


def test_the_ramp_of_yarn_may_end_beyond_the_last_pair():
    """Where theta is small: then no pair is stretched whole."""
    parameters = dataclasses.asdict(YARN)
    parameters["original_max_position_embeddings"] = parameters.pop("original_positions")
    expected, _ = by_torch("yarn", length=None, head_dim=DIMS, rope_theta=8.0, **parameters)
    assert expected[-1] > 1.5 * series(8.0)[-1] / 8
    assert_close(frequencies(rope(YARN, theta=8.0)), expected)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_frequencies_of_llama_3_by_torch(factor):
    parameters = {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    expected, _ = by_torch("llama3", length=None, head_dim=128, rope_theta=5e5, **parameters)
    scaling = dataclasses.replace(LLAMA3, factor=factor, original_positions=8192)
    assert_close(frequencies(rope(scaling, theta=5e5, dims=128)), expected)


def test_plain_frequencies_by_torch():
    parameters = {"rope_type": "default", "rope_theta": 5e5}
    expected = LlamaRotaryEmbedding(LlamaConfig(head_dim=64, rope_parameters=parameters)).inv_freq
    assert_close(frequencies(rope(theta=5e5, dims=64)), expected.numpy())


# Angles of packed rows


def test_every_token_knows_the_length_of_its_segment():
    same = SEGMENTS[:, :, None] == SEGMENTS[:, None, :]
    got = segment_lengths(jnp.asarray(positions_of(SEGMENTS)), jnp.asarray(same))
    expected = [[list(row).count(s) for s in row] for row in SEGMENTS]
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("scaling", SCALINGS, ids=kind)
def test_packed_neighbours_do_not_matter(scaling):
    """A short and a long sentence turn in one row as each does alone."""

    def turned(*lengths: int):
        positions = np.concatenate([np.arange(n) for n in lengths])[None]
        each = np.concatenate([np.full(n, n) for n in lengths])[None]
        cos, sin = rotation(rope(scaling), jnp.asarray(positions), jnp.asarray(each))
        return np.stack([cos[0], sin[0]])

    together = turned(5, 100, 7)
    for alone, part in zip(
        [turned(5), turned(100), turned(7)], np.split(together, [5, 105], axis=1), strict=True
    ):
        assert np.array_equal(alone, part)


@pytest.mark.parametrize("scaling", SCALINGS, ids=kind)
@pytest.mark.parametrize("length", [5, 100])
def test_attention_factor_multiplies_cosine_and_sine(scaling, length):
    expected = {YarnScaling: 1.25, LongScaling: 1.19}.get(type(scaling), 1.0)
    assert attention_factor(rope(scaling)) == expected
    positions = jnp.arange(length)[None]
    cos, sin = rotation(rope(scaling), positions, jnp.full_like(positions, length))
    assert_close(np.hypot(cos, sin), np.full(cos.shape, expected))


# Turning


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("head_dim", [8, 9, 12])
def test_pairs_turn_as_complex_numbers_and_the_rest_stays(interleaved, head_dim):
    heads, positions = normal(2, 5, 3, head_dim), np.array([[0, 1, 2, 3, 4], [0, 1, 0, 1, 30]])
    plain = rope(theta=500.0, dims=8)
    by = rotation(plain, jnp.asarray(positions), jnp.asarray(positions) + 1)
    got = np.asarray(rotate(jnp.asarray(heads), by, interleaved=interleaved))
    expected = heads.astype(np.float64)
    for (b, s, h), (i, f) in itertools.product(np.ndindex(2, 5, 3), enumerate(series(500.0, 8))):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + 4)
        pair = complex(heads[b, s, h, first], heads[b, s, h, second])
        turned = pair * complex(math.cos(positions[b, s] * f), math.sin(positions[b, s] * f))
        expected[b, s, h, first], expected[b, s, h, second] = turned.real, turned.imag
    # An angle of 30 has an error of half a unit in its last place, 1e-6.
    assert np.abs(got - expected).max() <= 2 * TOLERANCE * np.abs(expected).max()
    assert np.array_equal(got[..., 8:], heads[..., 8:])
    assert np.array_equal(got[:, 0], heads[:, 0])


def test_rotate_keeps_the_dtype():
    by = rotation(rope(dims=2), jnp.arange(4)[None], jnp.full((1, 4), 4))
    for heads in (jnp.ones((1, 4, 1, 2), jnp.bfloat16), jnp.ones((1, 4, 1, 3), jnp.bfloat16)):
        assert rotate(heads, by, interleaved=False).dtype == jnp.bfloat16


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("scaling", SCALINGS, ids=kind)
def test_rotated_products_depend_on_the_distance_only(scaling, interleaved):
    heads = normal(2, 1, 1, DIMS + 2)

    def product(*positions: int) -> float:
        at = jnp.asarray(positions)[:, None]
        by = rotation(rope(scaling), at, jnp.full_like(at, 100))
        query, key = np.asarray(rotate(jnp.asarray(heads), by, interleaved=interleaved), np.float64)
        return float(query.ravel() @ key.ravel())

    assert product(9, 2) == pytest.approx(product(7, 0), abs=1e-5)
    assert product(7, 2) != pytest.approx(product(7, 0), abs=1e-2)


@pytest.mark.parametrize("scaling", [None, LINEAR, DYNAMIC, LLAMA3, YARN, LONG])
def test_which_lengths_turn_a_segment_anew(scaling):
    """Those at which its first tokens are rotated otherwise than at a token less."""
    rope = Rope(theta=500.0, dims=DIMS, scaling=scaling)
    lengths = np.arange(1, 2 * ORIGINAL)
    positions = np.full((1, len(lengths)), 3)
    cos, _ = rotation(rope, jnp.asarray(positions), jnp.asarray(lengths)[None])
    changed = np.any(np.diff(cos[0], axis=0) != 0, axis=1)
    found = turned_anew(rope, jnp.asarray(lengths))
    np.testing.assert_array_equal(changed if found is None else found[1:], changed)
    assert changed.any() == (found is not None)
