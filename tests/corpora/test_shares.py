"""Shares of languages, and whole numbers as near to them as can be."""

import re

import numpy as np
import pytest

from ilo_jax.corpora.shares import given, quotas, sampled


def test_sizes_are_raised_to_a_power_and_divided_by_their_sum():
    sizes = {"a": 100, "b": 400, "c": 900}
    assert sampled(sizes, alpha=0.5) == {"a": 10 / 60, "b": 20 / 60, "c": 30 / 60}
    assert sampled(sizes, alpha=1.0) == {"a": 100 / 1400, "b": 400 / 1400, "c": 900 / 1400}
    assert set(sampled(sizes, alpha=0.0).values()) == {1 / 3}


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_exponent_is_from_0_to_1(alpha):
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got {alpha}$"):
        sampled({"a": 1}, alpha=alpha)


def test_a_language_without_text_cannot_be_sampled():
    with pytest.raises(ValueError, match=r"must have text to be sampled, got none in b, d$"):
        sampled({"a": 1, "b": 0, "c": 2, "d": 0}, alpha=0.5)


def test_shares_that_are_given_are_divided_by_their_sum_in_the_order_of_the_languages():
    found = given({"b": 1.0, "a": 3.0}, ("a", "b"))
    assert list(found.items()) == [("a", 0.75), ("b", 0.25)]


def test_all_that_is_wrong_with_shares_is_told():
    message = (
        "every language must have a share above 0, got 0.0 for b, inf for c, none for d, one for "
        "e, of which there is no text"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        given({"a": 1.0, "b": 0.0, "c": float("inf"), "e": 1.0}, ("a", "b", "c", "d"))


def test_what_is_left_goes_to_the_largest_remainders():
    assert quotas(np.array([0.5, 0.3, 0.2]), 10).tolist() == [5, 3, 2]
    assert quotas(np.array([0.29, 0.36, 0.35]), 10).tolist() == [3, 4, 3]  # 2.9, 3.6, 3.5
    assert quotas(np.array([0.25] * 4), 6).tolist() == [2, 2, 1, 1]


def test_quotas_add_up_and_are_less_than_one_away():
    rng = np.random.default_rng(0)
    for lang, total in [(1, 1), (3, 7), (31, 100), (200, 64), (12, 4096)]:
        shares = rng.dirichlet(np.full(lang, 0.3))
        found = quotas(shares, total)
        assert found.sum() == total
        assert np.abs(found - shares * total).max() < 1
