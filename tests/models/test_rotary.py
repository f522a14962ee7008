import dataclasses

import pytest

from ilo_jax.models.rotary import DynamicScaling, LongScaling, Rope

LONG = LongScaling(
    short_factor=(1.0, 1.0),
    long_factor=(2.0, 3.0),
    original_positions=16,
    attention_factor=1.0,
)


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


def test_dynamic_scaling_needs_two_pairs():
    message = "^dynamic scaling needs at least 4 rotary dims, got 2$"
    with pytest.raises(ValueError, match=message):
        Rope(theta=5.0, dims=2, scaling=DynamicScaling(factor=2.0, original_positions=8))
