"""A function by its parts against the same under `jax.jit`; what is compiled, held, let go of."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax.compiling.program import by_parts
from ilo_jax.sharding import along_data, make_mesh, place_loose, replicated
from tests.compiling.blocks import BLOCKS, DIM, ROWS, close, drawn, gradient, loss


def test_values_and_gradients_are_those_of_the_whole(mesh):
    args = drawn(mesh)
    found, expected = by_parts(gradient, mesh)(*args), jax.jit(gradient)(*args)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    close(found, expected)


def test_what_is_alike_is_compiled_once(mesh):
    """The first block is another: its input is not differentiated, so it keeps less."""
    program = by_parts(gradient, mesh).compiled(*drawn(mesh))
    parts = [times for call, times in program.distinct if call.name == "part_block"]
    assert sorted(parts) == [1, 1, BLOCKS - 1, BLOCKS - 1]
    assert len(program.calls) == sum(times for _, times in program.distinct)


def test_nothing_is_compiled_again_for_arguments_of_one_kind(mesh):
    function, (weights, hidden) = by_parts(loss, mesh), drawn(mesh)
    assert function.compiled(weights, hidden) is function.compiled(weights, hidden + 1)
    assert function.compiled(weights, hidden) is not function.compiled(weights, hidden[:4])
    assert len(function.programs) == 2


def test_arguments_and_literals_may_be_results(mesh):
    x = place_loose(np.arange(3.0), mesh)
    same, one, more = by_parts(lambda x: (x, 1.0, x + 1), mesh)(x)
    assert same is x
    assert one == 1
    assert more.tolist() == [1, 2, 3]


def test_results_known_before_are_the_callers_to_consume(mesh):
    x = place_loose(np.arange(3.0), mesh)
    function = by_parts(lambda x: (1.0, x + 1), mesh)
    for _ in range(2):
        one, _ = function(x)
        assert float(one) == 1
        one.delete()


def test_a_donated_argument_that_nothing_has_room_for_is_let_go_of(mesh):
    weights, hidden = drawn(mesh)
    by_parts(lambda weights, hidden: loss(weights, hidden)[0], mesh, donated=[0])(weights, hidden)
    assert all(array.is_deleted() for array in jax.tree.leaves(weights))


def test_results_lie_as_asked_and_blocks_split_over_devices_are_alike():
    mesh = make_mesh(data=4, model=2)
    split = NamedSharding(mesh, PartitionSpec("data", "model"))
    lies = ((replicated(mesh), None), split)
    args = drawn(mesh, lies=along_data(mesh))
    function = by_parts(gradient, mesh, out_shardings=lies)
    (value, aux), gradients = found = function(*args)
    close(found, jax.jit(gradient)(*args))
    assert value.sharding.is_equivalent_to(replicated(mesh), 0)
    assert aux.shape == (DIM,)
    assert {g.sharding for each in gradients for g in each.values()} == {split}
    distinct = function.compiled(*args).distinct
    assert max(times for _, times in distinct) >= BLOCKS - 2


def test_what_does_not_lie_on_the_mesh_is_put_there():
    mesh = make_mesh(data=4, model=2)
    found = by_parts(lambda x, key: x + jax.random.uniform(key, (3,)), mesh)(
        np.ones(3, np.float32), jax.random.key(0)
    )
    np.testing.assert_allclose(found, 1 + jax.random.uniform(jax.random.key(0), (3,)), rtol=1e-6)
    assert found.sharding.device_set == {*mesh.devices.flat}


def test_memory_is_counted_where_most_is_held(mesh):
    """Forwards: all weights, one state there and one before it; backwards: more."""
    args = drawn(mesh)
    weights, state = BLOCKS * 2 * DIM * DIM * 4, ROWS * DIM * 4
    there = by_parts(loss, mesh).compiled(*args).memory
    assert there.arguments == weights + state
    assert there.outputs == 4 + DIM * 4
    assert there.aliased == 0
    assert state <= there.temporaries + there.outputs <= 5 * state
    back = by_parts(gradient, mesh).compiled(*args).memory
    assert back.outputs == there.outputs + weights
    # A state and what tanh was taken of, of each block, are kept for the way back.
    kept = 2 * BLOCKS * state
    assert kept - state <= back.total - back.arguments <= back.outputs + kept
    consumed = by_parts(gradient, mesh, donated=[0]).compiled(*args).memory
    assert consumed.aliased == weights
    assert consumed.total < back.total


def test_memory_is_of_one_device():
    mesh = make_mesh(data=4, model=2)
    alone = by_parts(loss, mesh).compiled(*drawn(mesh)).memory
    split = by_parts(loss, mesh).compiled(*drawn(mesh, lies=along_data(mesh))).memory
    assert alone.arguments - split.arguments == ROWS * DIM * 4 * 3 // 4


def test_constants_may_be_results_and_arguments_lie_as_asked():
    mesh = make_mesh(data=4, model=2)
    table, split = np.arange(8.0, dtype=np.float32), along_data(mesh)

    def function(x):
        return x, jnp.asarray(table), 2.0, x + 1

    lies = (split, split, None, None)
    x = place_loose(np.ones(8, np.float32), mesh)
    same, known, two, more = by_parts(function, mesh, out_shardings=lies)(x)
    assert (same.sharding, known.sharding) == (split, split)
    assert known.tolist() == table.tolist()
    assert float(two) == 2
    assert more.tolist() == [2.0] * 8


def test_what_does_more_than_compute_is_done(mesh):
    seen = []

    def function(x):
        jax.debug.callback(seen.append, x[0])
        return loss([], x)[0]

    by_parts(function, mesh)(np.ones((2, 2), np.float32))
    jax.effects_barrier()
    assert len(seen) == 1


def test_a_weak_type_is_another_kind_of_argument(mesh):
    weak = jax.device_put(jnp.asarray(2.0), replicated(mesh))
    half = place_loose(jnp.ones(3, jnp.bfloat16), mesh)
    function = by_parts(lambda scale, x: x * scale, mesh)
    assert function(weak, half).dtype == jnp.bfloat16
    assert function(place_loose(np.float32(2), mesh), half).dtype == jnp.float32


def test_memory_of_what_hands_its_argument_on(mesh):
    x = place_loose(np.ones(4, np.float32), mesh)
    same = by_parts(lambda x: x, mesh).compiled(x).memory
    assert (same.arguments, same.outputs, same.temporaries, same.total) == (16, 0, 0, 16)


def test_memory_has_what_is_known_before_also_for_devices_that_are_not_there(mesh, tpu):
    table = np.arange(8.0, dtype=np.float32)
    absent = make_mesh(data=4, devices=tpu("v5e:2x2").devices)

    def function(x):
        return x + 1, jnp.asarray(table), 2.0

    for where, parts in ((mesh, 1), (absent, 4)):
        x = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=replicated(where))
        made = by_parts(function, where, out_shardings=(None, along_data(where), None))
        memory = made.compiled(x).memory
        assert memory.arguments == 16
        # A literal is a number of 32 bits.
        assert memory.outputs == 16 + 32 // parts + 4
        assert memory.total >= memory.arguments + memory.outputs
