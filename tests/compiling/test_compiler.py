"""What is compiled once and what is not, and where results take the place of what is done with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.compiling.parts import part
from ilo_jax.compiling.program import by_parts
from ilo_jax.emitted import memory
from ilo_jax.sharding import make_mesh, replicated
from tests.compiling.blocks import BLOCKS, DIM, ROWS, close, drawn, loss


def test_calls_that_differ_in_a_literal_or_a_constant_are_told_apart(mesh):
    @part("power")
    def raised(x, by, *, power):
        return x**power + by

    table = {0: np.arange(4.0, dtype=np.float32), 1: np.ones(4, np.float32)}

    def function(x):
        return [
            raised(x, table[0], power=2),
            raised(x, table[1], power=2),
            raised(x, table[1], power=3),
            raised(x, 1.0, power=2),
            raised(x, 2.0, power=2),
        ]

    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    found = by_parts(function, mesh)(x)
    np.testing.assert_array_equal(found[0], x**2 + table[0])
    np.testing.assert_array_equal(found[1], x**2 + 1)
    np.testing.assert_array_equal(found[2], x**3 + 1)
    np.testing.assert_array_equal(found[3], x**2 + 1)
    np.testing.assert_array_equal(found[4], x**2 + 2)


@pytest.mark.parametrize("donated", [(), (0,)])
def test_what_is_donated_is_consumed_and_nothing_else(mesh, donated):
    def function(weights, hidden):
        return [{name: array + hidden.sum() for name, array in each.items()} for each in weights]

    weights, hidden = drawn(mesh)
    expected = jax.jit(function)(weights, hidden)
    close(by_parts(function, mesh, donated=donated)(weights, hidden), expected)
    assert {array.is_deleted() for array in jax.tree.leaves(weights)} == {bool(donated)}
    assert not hidden.is_deleted()


def test_a_hidden_state_takes_the_place_of_the_one_before(mesh):
    """Where nobody needs that any more: forwards only."""
    args = drawn(mesh)
    there = by_parts(lambda *args: loss(*args)[1], mesh).compiled(*args)
    state = ROWS * DIM * 4
    aliased = [memory(call.compiled).aliased for call in there.calls]
    assert aliased[: BLOCKS + 1] == [0, *[state] * (BLOCKS - 1), 0]


def test_literals_are_told_apart_to_the_last_bit(mesh):
    """Printed, each of these is the other."""

    @part()
    def moved(x, by):
        return x * 2 + by

    steps = [np.float32(1.2345678e-4), np.float32(1.2345999e-4), np.float32(0), np.float32(-0.0)]
    x = np.zeros(1, np.float32)
    found = by_parts(lambda x: [moved(x - 0.0, step) for step in steps], mesh)(x)
    assert [one.tobytes() for one in map(np.asarray, found)] == [
        (x * 2 + step).tobytes() for step in steps
    ]


def test_what_takes_nothing_is_computed_on_the_whole_mesh():
    mesh = make_mesh(data=4, model=2)

    @part()
    def moved(x, by):
        return x * 2 + by

    found = by_parts(lambda x: moved(moved(x, x), jnp.zeros(4)), mesh)(np.ones(4, np.float32))
    assert found.tolist() == [6.0] * 4
    assert found.sharding.device_set == {*mesh.devices.flat}


@part()
def shifted(x):
    return x + 1


def test_what_lies_between_parts_is_compiled_once_where_it_is_the_same(mesh):
    """With equal constants, too, though they are other arrays."""
    tables = [np.arange(4.0), np.arange(4.0), np.ones(4)]

    def function(x):
        return [shifted(x * 2 + jnp.asarray(table, jnp.float32)) for table in tables]

    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    compiled = by_parts(function, mesh).compiled(jax.device_put(x, replicated(mesh)))
    often = [(call.name, times) for call, times in compiled.distinct]
    assert often == [("between", 2), ("part_shifted", 3), ("between", 1)]
    for found, table in zip(by_parts(function, mesh)(x), tables, strict=True):
        np.testing.assert_array_equal(found, x * 2 + table + 1)


def test_what_lies_between_parts_is_told_apart_by_all_that_it_does(mesh):
    """A parameter, a literal, which of what is taken, what is needed of it, a type."""

    def function(x, y, whole):
        pair = x * 3, x * 3 + y
        return [
            shifted(x**2),
            shifted(x**3),
            shifted(x * 2.0),
            shifted(x * 2.5),
            shifted(x * y / x),
            shifted(x * y / y),
            shifted(whole * 2),
            (shifted(pair[1]), pair[0]),
            shifted(x * 3 + y),
        ]

    x, y = np.array([1.0, 2.0], np.float32), np.array([4.0, 8.0], np.float32)
    args = x, y, np.array([5, 6], np.int32)
    given = [jax.device_put(array, replicated(mesh)) for array in args]
    compiled = by_parts(function, mesh).compiled(*given)
    assert sum(call.name == "between" for call, _ in compiled.distinct) == 9
    close(by_parts(function, mesh)(*args), function(*args))
