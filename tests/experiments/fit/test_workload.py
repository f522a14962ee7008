import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from experiments.fit.workload import Made, Workload, made_by_parts, made_whole
from ilo_jax.compiling.parts import part
from ilo_jax.compiling.program import by_parts
from ilo_jax.sharding import along_data, make_mesh, replicated


def unused() -> Made:
    raise AssertionError


@part()
def doubled(x):
    return 2 * x


def test_what_it_is_computed_from_counts_as_it_lies_and_the_rest_as_it_is_guessed():
    mesh = make_mesh(model=2)
    spec = NamedSharding(mesh, PartitionSpec("data", "model"))
    held = {
        "weights": {"a": jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=spec)},
        "kept states": None,
        "key": jax.eval_shape(lambda: jax.random.key(0)).update(sharding=replicated(mesh)),
    }
    work = Workload("w", held, 100, operations=0, dtype="float32", results=1, compile=unused)
    assert work.counted == 2 * 3 * 4 + 8 + 100


def test_parts_come_with_how_often_they_are_called():
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=along_data(make_mesh()))
    function = by_parts(lambda x: doubled(doubled(doubled(x))) + 1, make_mesh())
    made = made_by_parts(function, x)
    parts = [(name, often) for name, _, often in made.parts]
    # The first leaves what it is given to whoever calls.
    assert parts == [("part_doubled", 1), ("part_doubled", 2), ("between", 1)]
    assert made.memory == function.compiled(x).memory


def test_a_whole_program_is_one_part():
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=along_data(make_mesh()))
    made = made_whole(jax.jit(jnp.sin).lower(x), name="sine")
    [(name, compiled, often)] = made.parts
    assert (name, often) == ("sine", 1)
    assert made.memory.arguments == made.memory.outputs == 4 * 4
    assert "sine" in str(compiled.as_text())
