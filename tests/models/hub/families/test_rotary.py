import math
import re
from typing import Any

import pytest

from ilo_jax.models.hub.families.rotary import FULL, SLIDING, Rotary, ropes
from ilo_jax.models.rotary import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    Scaling,
    YarnScaling,
)

MAX = 128
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG: dict[str, Any] = {"short_factor": [1, 1.5, 2, 2], "long_factor": [3, 4, 5, 6.0]}


def read(*, max_positions: int | None = MAX, **keys) -> dict[str, Rope | None]:
    return ropes(Rotary(**keys), head_dim=8, max_positions=max_positions)


def rope(**keys) -> Rope:
    both = read(**keys)
    found = both[FULL]
    assert found == both[SLIDING]
    assert found is not None
    return found


def scaling(max_positions: int | None = MAX, original: int | None = None, **parameters) -> Scaling:
    found = rope(
        rope_theta=500.0,
        rope_parameters=parameters,
        original_positions=original,
        max_positions=max_positions,
    ).scaling
    assert found is not None
    return found


# Spellings


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_scaling": {"type": "default"}},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 500.0}},
        {"rope_parameters": {"rope_theta": 500}},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"rope_theta": 500.0, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
    ],
)
def test_plain_rope_in_every_spelling(keys):
    assert rope(**keys) == Rope(theta=500.0, dims=8)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", "rope_type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3}},
        {"rope_theta": 500.0, "rope_parameters": {"rope_type": "llama3", **LLAMA3}},
        {
            "rope_theta": 500.0,
            "rope_scaling": {"type": "llama3"} | LLAMA3,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0} | LLAMA3,
        },
    ],
)
def test_scaled_rope_in_every_spelling(keys):
    expected = Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64
    )
    assert rope(**keys) == Rope(theta=500.0, dims=8, scaling=expected)


def test_habits_of_a_family_stand_for_absent_keys():
    assert rope() == Rope(theta=10000.0, dims=8)
    expected = Rope(theta=7.0, dims=2, interleaved=True)
    assert rope(default_theta=7.0, default_fraction=0.25, interleaved=True) == expected


@pytest.mark.parametrize(
    "keys",
    [
        {"rotary_fraction": 0.5},
        {"rotary_fraction": 0.5, "default_fraction": 0.25},
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        {"rotary_fraction": 0.5, "rope_parameters": {"partial_rotary_factor": 0.5}},
    ],
)
def test_share_of_the_dims_in_every_spelling(keys):
    assert rope(**keys) == Rope(theta=1e4, dims=4)


# Scalings


def test_linear_and_dynamic():
    assert scaling(rope_type="linear", factor=2) == LinearScaling(factor=2.0)
    expected = DynamicScaling(factor=2.0, original_positions=MAX)
    assert scaling(rope_type="dynamic", factor=2) == expected


@pytest.mark.parametrize(
    ("parameters", "factor", "attention_factor"),
    [
        ({"factor": 4}, 4.0, 0.1 * math.log(4) + 1),
        ({"factor": 1}, 1.0, 1.0),
        ({"factor": 4, "attention_factor": 1.5}, 4.0, 1.5),
        ({"original_max_position_embeddings": 64}, 2.0, 0.1 * math.log(2) + 1),
        ({"factor": 4, "mscale": 1}, 4.0, 0.1 * math.log(4) + 1),
        ({"factor": 4, "mscale": 1, "mscale_all_dim": 1}, 4.0, 1.0),
        (
            {"factor": 4, "mscale": 1, "mscale_all_dim": 0.5},
            4.0,
            (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
        ),
    ],
)
def test_yarn_and_its_attention_factor(parameters, factor, attention_factor):
    found = scaling(rope_type="yarn", **parameters)
    assert isinstance(found, YarnScaling)
    assert found.attention_factor == pytest.approx(attention_factor, rel=1e-12)
    assert (found.factor, found.truncate) == (factor, True)
    assert (found.beta_fast, found.beta_slow) == (32.0, 1.0)
    expected = parameters.get("original_max_position_embeddings", MAX)
    assert found.original_positions == expected


@pytest.mark.parametrize("attn_factor", [1, 0.1 * math.log(4) + 1, 0.8782488562869419, None])
def test_attn_factor_may_say_what_is_computed_anyway(attn_factor):
    found = scaling(rope_type="yarn", factor=4, attn_factor=attn_factor, extrapolation_factor=1)
    assert found == scaling(rope_type="yarn", factor=4)


def test_another_attn_factor_is_refused():
    message = (
        "attn_factor of config.json must be 1, 1.13863 or its inverse, as transformers does not "
        "read it, got 0.9; say attention_factor instead"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        scaling(rope_type="yarn", factor=4, attn_factor=0.9)


def test_what_is_null_or_a_note_is_passed_over():
    found = scaling(rope_type="linear", factor=2, finetuned=True, low_freq_factor=None)
    assert found == LinearScaling(factor=2.0)


def test_yarn_ramp_is_read():
    found = scaling(rope_type="yarn", factor=4, beta_fast=16, beta_slow=2, truncate=False)
    assert isinstance(found, YarnScaling)
    assert (found.beta_fast, found.beta_slow, found.truncate) == (16.0, 2.0, False)


@pytest.mark.parametrize("name", ["longrope", "su"])
@pytest.mark.parametrize(
    ("parameters", "original", "attention_factor"),
    [
        ({}, 64, math.sqrt(1 + math.log(2) / math.log(64))),
        ({}, MAX, 1.0),
        ({"factor": 4}, 64, math.sqrt(1 + math.log(4) / math.log(64))),
        ({"factor": 1}, 64, 1.0),
        ({"attention_factor": 1.5}, 64, 1.5),
    ],
)
@pytest.mark.parametrize("outside", [False, True], ids=["in rope_parameters", "beside them"])
def test_longrope_and_its_attention_factor(name, parameters, original, attention_factor, outside):
    if not outside:
        parameters = parameters | {"original_max_position_embeddings": original}
    found = scaling(original=original if outside else None, rope_type=name, **LONG, **parameters)
    assert isinstance(found, LongScaling)
    assert found.short_factor == (1.0, 1.5, 2.0, 2.0)
    assert found.long_factor == (3.0, 4.0, 5.0, 6.0)
    assert found.original_positions == original
    assert found.attention_factor == pytest.approx(attention_factor, rel=1e-12)


def test_original_positions_beside_the_scaling_outrank_those_inside():
    found = scaling(original=32, rope_type="longrope", original_max_position_embeddings=64, **LONG)
    assert isinstance(found, LongScaling)
    assert found.original_positions == 32


# Blocks of two kinds


PLAIN = {"rope_type": "default", "rope_theta": 500.0}


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500.0, "sliding_theta": 7.0},
        {"rope_parameters": PLAIN, "sliding_theta": 7.0},
        {
            "rope_parameters": {FULL: PLAIN, SLIDING: {"rope_type": "default", "rope_theta": 7.0}},
            "sliding_theta": 10000.0,
        },
        {
            "rope_theta": 500.0,
            "rope_parameters": {FULL: {"rope_type": "default"}, SLIDING: {"rope_theta": 7}},
            "sliding_theta": 10000.0,
        },
    ],
)
def test_sliding_blocks_with_their_own_theta(keys):
    assert read(**keys) == {FULL: Rope(theta=500.0, dims=8), SLIDING: Rope(theta=7.0, dims=8)}


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 8}},
        {
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8, "rope_theta": 500.0},
                SLIDING: {"rope_type": "default", "rope_theta": 7.0},
            }
        },
    ],
)
def test_sliding_blocks_with_their_own_theta_have_no_scaling(keys):
    assert read(sliding_theta=7.0, **keys) == {
        FULL: Rope(theta=500.0, dims=8, scaling=LinearScaling(factor=8.0)),
        SLIDING: Rope(theta=7.0, dims=8),
    }


def test_full_blocks_without_positions():
    assert read(sliding_only=True) == {FULL: None, SLIDING: Rope(theta=1e4, dims=8)}


# What is refused


def refused(message: str, **keys) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"rope_theta": 500.0, "rope_parameters": {"rope_theta": 600.0}},
            "config.json gives rope_theta as 500.0 and as 600.0",
        ),
        (
            {"rope_scaling": {"type": "default", "rope_type": "llama3"}},
            "config.json gives rope_type as 'default' and as 'llama3'",
        ),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2},
                "rope_parameters": {"rope_type": "linear", "factor": 3},
            },
            "config.json gives factor as 2 and as 3",
        ),
        (
            {"rotary_fraction": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}},
            "config.json gives partial_rotary_factor as 0.5 and as 0.25",
        ),
        ({"rotary_fraction": 0.4}, "rotary positions need an even number of dims, got 3"),
        (
            {"rope_parameters": {"rope_type": "su", **LONG, "long_factor": [1.0]}},
            "short_factor and long_factor must have 4 values, got 4 and 1",
        ),
    ],
)
def test_contradiction_is_refused(keys, message):
    refused(message, **keys)


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "longrope"])
def test_scaling_by_length_needs_max_positions(kind):
    extra = LONG if kind == "longrope" else {"factor": 2}
    message = f"rope_type {kind!r} needs max_position_embeddings, got none"
    refused(message, max_positions=None, rope_parameters={"rope_type": kind, **extra})


@pytest.mark.parametrize(
    ("parameters", "sliding_theta"),
    [
        ({FULL: PLAIN, SLIDING: PLAIN}, None),
        ({FULL: PLAIN, "rope_theta": 500.0}, 7.0),
        ({FULL: PLAIN, SLIDING: PLAIN, "chunked_attention": PLAIN}, 7.0),
    ],
)
def test_nested_parameters_are_refused_where_blocks_are_one_kind(parameters, sliding_theta):
    message = (
        "rope_parameters of config.json must be one for all blocks here, or have exactly "
        "full_attention and sliding_attention where the family tells them apart; "
        f"got {sorted(parameters)}"
    )
    refused(message, rope_parameters=parameters, sliding_theta=sliding_theta)


@pytest.mark.parametrize(
    ("parameters", "got"),
    [
        ({FULL: 5, SLIDING: 3}, "full_attention 5, sliding_attention 3"),
        ({FULL: PLAIN, SLIDING: []}, "sliding_attention []"),
        ({FULL: 0, SLIDING: None}, "full_attention 0"),
    ],
)
def test_parameters_of_a_kind_of_blocks_are_an_object(parameters, got):
    message = (
        f"rope_parameters of config.json must have an object for each kind of blocks, got {got}"
    )
    refused(message, rope_parameters=parameters, sliding_theta=7.0)


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("parameters", "problems"),
    [
        (
            {"rope_type": "llama3", "factor": "8", "low_freq_factor": 1, "beta_fast": 32},
            [
                "beta_fast: unknown key",
                "factor: must be int or float, got '8'",
                "high_freq_factor: missing",
                "original_max_position_embeddings: missing",
            ],
        ),
        ({"rope_type": "linear"}, ["factor: missing"]),
        ({"rope_type": "longrope"}, ["short_factor: missing", "long_factor: missing"]),
        ({"rope_type": "yarn", "truncate": 1}, ["truncate: must be bool, got 1"]),
        ({"factor": 2.0}, ["factor: unknown key"]),
        (
            {"type": "mrope", "factor": 2.0},
            [
                "factor: unknown key",
                "rope_type: must be one of ['default', 'linear', 'dynamic', 'yarn', 'llama3', "
                "'longrope', 'su'], got 'mrope'",
            ],
        ),
    ],
)
def test_problems_come_at_once(spelling, parameters, problems):
    message = "\n  ".join(["cannot read rope_parameters of config.json:", *problems])
    refused(message, **{spelling: parameters})


@pytest.mark.parametrize("sliding", [{}, {SLIDING: {"rope_type": "default"}}])
def test_sliding_theta_stands_for_an_absent_one(sliding):
    """As in transformers, where it is the default of sliding attention."""
    nested = {FULL: {"rope_theta": 500.0}} | sliding
    assert read(rope_parameters=nested, sliding_theta=7.0, default_theta=1e6) == {
        FULL: Rope(theta=500.0, dims=8),
        SLIDING: Rope(theta=7.0, dims=8),
    }


def test_rope_type_of_null_is_the_default():
    assert rope(rope_parameters={"rope_type": None}) == Rope(theta=1e4, dims=8)


def test_rope_type_that_is_no_string_is_refused():
    with pytest.raises(ValueError, match=r"rope_type: must be str, got \['linear'\]$"):
        rope(rope_parameters={"rope_type": ["linear"]})


def test_original_positions_beside_llama3():
    found = scaling(original=32, rope_type="llama3", **LLAMA3)
    assert isinstance(found, Llama3Scaling)
    assert found.original_positions == 32


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_theta": -1.0}, "theta -1.0"),
        ({"rope_type": "linear", "factor": 0}, "factor 0.0"),
        ({"partial_rotary_factor": 0.0, "rope_theta": 0}, "theta 0.0, fraction 0.0"),
        (
            {"rope_type": "longrope", "short_factor": [1.0, None], "long_factor": [1.0, 2.0]},
            "short_factor [1.0, None]",
        ),
    ],
)
def test_values_that_no_rotation_can_have_are_refused(parameters, message):
    message = f"rope_parameters of config.json must be positive, got {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rope(rope_parameters=parameters)


def test_llama3_factors_must_leave_a_ramp():
    message = "low_freq_factor (4.0) must be below high_freq_factor, 4.0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rope(rope_parameters={"rope_type": "llama3", **LLAMA3 | {"low_freq_factor": 4.0}})
