import re

import ml_dtypes
import numpy as np
import pytest

from ilo_jax.activations.gathering import layouts
from ilo_jax.activations.store import open_store
from ilo_jax.activations.taps import Tap
from ilo_jax.activations.usable import (
    UnusableError,
    naming,
    refuse_unusable,
    refuse_unusable_tokens,
    usable_states,
)

SHARED = ", some perhaps of sentences that shared a row with the cause)"
NOT_FINITE = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
SITES = pytest.mark.parametrize(
    ("site", "kind"), [("residual", "hidden state"), ("neurons", "neurons of block")]
)
LENGTHS = np.array([[2, 1, 3], [1, 4, 2]])


def whole(text: str) -> str:
    return f"^{re.escape(text)}$"


@SITES
@NOT_FINITE
@DTYPES
def test_states_that_are_not_finite_are_named(site, kind, value, dtype):
    states = np.ones((3, 2, 4, 5), dtype)
    states[2, 1, 3, 0] = value
    message = f"m: {kind} 9 of y sentence 4 is not finite (1 such in all{SHARED}"
    with pytest.raises(ValueError, match=whole(message)), naming("m", ["x", "y"]):
        refuse_unusable(states, site=site, layers=[0, 4, 9])


def test_the_first_of_many_is_named_and_all_are_counted():
    states = np.ones((3, 2, 4, 5), np.float32)
    states[2, 0, 0] = np.nan
    states[1, 0, 2, 3] = np.inf
    states[1, 1, 0] = -np.inf
    message = f"m: hidden state 1 of x sentence 3 is not finite (3 such in all{SHARED}"
    with pytest.raises(ValueError, match=whole(message)), naming("m", ["x", "y"]):
        refuse_unusable(states, site="residual", layers=[0, 1, 2])


@DTYPES
def test_hidden_states_that_are_zero_are_named(dtype):
    states = np.ones((3, 2, 4, 5), dtype)
    states[1, 0, 2] = 0
    states[2, 0, 2] = -0.0
    message = f"m: hidden state 1 of x sentence 3 is all zero (2 such in all{SHARED}"
    with pytest.raises(ValueError, match=whole(message)), naming("m", ["x", "y"]):
        refuse_unusable(states, site="residual", layers=[0, 1, 2])


def test_neurons_may_be_zero():
    refuse_unusable(np.zeros((3, 2, 4, 5), np.float32), site="neurons", layers=[0, 1, 2])


@DTYPES
@pytest.mark.parametrize("value", [1.0, -1.0, 1e-38, 3e38])
def test_one_value_is_enough_of_a_direction(dtype, value):
    states = np.zeros((1, 2, 4, 5), dtype)
    states[..., 2] = value
    refuse_unusable(states, site="residual", layers=[0])


@SITES
@NOT_FINITE
@DTYPES
@pytest.mark.parametrize(
    ("token", "place"),
    [(0, "x sentence 1"), (5, "x sentence 3"), (6, "y sentence 1"), (12, "y sentence 3")],
)
def test_tokens_that_are_not_finite_are_named_by_sentence(site, kind, value, dtype, token, place):
    states = np.ones((LENGTHS.sum(), 4), dtype)
    states[token, 1] = value
    message = f"m: tokens of {kind} 7 of {place} is not finite (1 such in all{SHARED}"
    with pytest.raises(ValueError, match=whole(message)), naming("m", ["x", "y"]):
        refuse_unusable_tokens(states, LENGTHS, site=site, layer=7, languages=[0, 1])


def test_sentences_are_counted_not_their_tokens():
    states = np.ones((LENGTHS.sum(), 4), np.float32)
    states[3:6] = np.nan
    states[8:10] = np.inf
    message = r"^tokens of hidden state 0 of language 4 sentence 3 is not finite \(2 such"
    with pytest.raises(UnusableError, match=message):
        refuse_unusable_tokens(states, LENGTHS, site="residual", layer=0, languages=[4, 2])


@SITES
def test_tokens_may_be_zero(site, kind):
    states = np.zeros((LENGTHS.sum(), 4), np.float32)
    refuse_unusable_tokens(states, LENGTHS, site=site, layer=0, languages=[0, 1])


def test_other_errors_are_not_named():
    with pytest.raises(ValueError, match=r"^plain$"), naming("m", ["x", "y"]):
        raise ValueError("plain")


def test_stored_states_are_read_layer_by_layer_until_one_is_unusable(tmp_path):
    tap = Tap("residual", "mean", (0, 3), 5)
    arrays = layouts([tap], lang=2, sent=4, longest=0, dtype="float32")
    store = open_store(tmp_path, {}, arrays, lang=2)
    values = np.random.default_rng(0).standard_normal((2, 2, 4, 5)).astype(np.float32)
    values[1, 1, 2] = 0
    for language in range(2):
        store.write(language, {tap.name: values[:, language]})
    reading = usable_states(store, tap)
    np.testing.assert_array_equal(next(reading), values[0])
    message = r"^m: hidden state 3 of y sentence 3 is all zero \(1 such"
    with pytest.raises(ValueError, match=message), naming("m", ["x", "y"]):
        next(reading)
