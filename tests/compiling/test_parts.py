"""Where a function is cut, and what of it is left out."""

import jax
import jax.numpy as jnp
import pytest

from ilo_jax.compiling.parts import forwarded, is_part, part, segments


@part()
def grow(x):
    return jnp.exp(x)


@part("times")
def scaled(x, *, times):
    return x * times


@part()
def both(weight, x):
    """What it makes of x, and the weight as it was."""
    return weight * x, weight


ONES = jnp.ones(3)


def names(function, *args) -> list[str]:
    return [segment.name for segment in segments(jax.make_jaxpr(function)(*args).jaxpr)]


def test_a_part_is_its_function():
    assert grow(ONES).tolist() == jnp.exp(ONES).tolist()
    assert scaled(ONES, times=3).tolist() == [3.0] * 3
    assert both.__doc__ == "What it makes of x, and the weight as it was."


def test_a_function_is_cut_at_its_parts():
    found = names(lambda x: grow(grow(x + 1) * 2).sum(), ONES)
    assert found == ["between", "part_grow", "between", "part_grow", "between"]
    assert names(lambda x: x + 1, ONES) == ["between"]
    assert names(grow, ONES) == ["part_grow"]
    assert names(lambda x: x, ONES) == []


def test_what_no_result_depends_on_is_left_out():
    def function(x):
        grow(x - 1)
        unused = scaled(x, times=2)
        return grow(x), unused.shape

    (segment,) = segments(jax.make_jaxpr(function)(ONES).jaxpr)
    assert segment.name == "part_grow"
    assert len(segment.gives) == len(segment.takes) == 1


def test_what_lies_between_waits_until_a_part_needs_it():
    """Of two sums, the one that only the result needs comes last, with the other's part before."""

    def function(x, y):
        late, early = y + 1, x + 1
        return grow(early), late

    closed = jax.make_jaxpr(function)(ONES, ONES)
    first, call, last = segments(closed.jaxpr)
    assert [segment.name for segment in (first, call, last)] == ["between", "part_grow", "between"]
    assert first.takes == [closed.jaxpr.invars[0]]
    assert last.takes == [closed.jaxpr.invars[1]]
    assert call.call is call.equations[0]
    assert first.call is None


def test_a_segment_gives_only_what_others_take():
    def function(x):
        once, _ = both(x, x + 1)
        return grow(once)

    found = segments(jax.make_jaxpr(function)(ONES).jaxpr)
    assert [len(segment.gives) for segment in found] == [1, 1, 1]


def test_what_a_part_hands_on_is_taken_from_where_it_was():
    def function(weight, x):
        made, same = both(weight, x)
        return both(same, made)

    closed = jax.make_jaxpr(function)(ONES, ONES)
    weight, _ = closed.jaxpr.invars
    jaxpr = forwarded(closed.jaxpr)
    assert [weight in equation.invars for equation in jaxpr.eqns] == [True, True]
    assert jaxpr.outvars[1] is weight
    assert closed.jaxpr.outvars[1] is not weight


@pytest.mark.parametrize("name", ["part_grow", "between"])
def test_parts_are_known_by_their_name(name):
    def function(x):
        return grow(x) if name == "part_grow" else x + 1

    (equation,) = jax.make_jaxpr(function)(ONES).jaxpr.eqns
    assert is_part(equation) == (name == "part_grow")
