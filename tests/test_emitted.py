"""Collectives of small programs, known from what the programs are, on CPU and for a TPU slice."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax import emitted
from ilo_jax.chips import CHIPS
from ilo_jax.emitted import Collective, Traffic
from ilo_jax.hlo import Array, read_program
from ilo_jax.sharding import make_mesh
from ilo_jax.topologies import compiled

WHOLE = PartitionSpec()
OVER_DATA = PartitionSpec("data")
EACH = PartitionSpec(("data", "model"))
PART = Array("f32", (8, 256))
BYTES = 8 * 256 * 4


def ring(x, *, data):
    to_next = [(i, (i + 1) % data) for i in range(data)]
    return lax.fori_loop(0, 7, lambda _, y: lax.ppermute(jnp.sin(y), "data", to_next), x)


def nested(x):
    def inner(_, y):
        return lax.psum(jnp.sin(y), "data") / 8

    return lax.fori_loop(0, 5, lambda _, y: lax.fori_loop(0, 3, inner, jnp.cos(y)), x)


def until_large(x):
    return lax.while_loop(lambda y: y.max() < 9, lambda y: lax.psum(jnp.exp(y), "data"), x)


def if_positive(x):
    return lax.cond(x[0, 0] > 0, lambda y: lax.psum(y, "data"), jnp.sin, x)


@pytest.fixture(scope="module", params=["cpu", "v5e:2x2", "v5e:2x4"])
def mesh(request):
    if request.param == "cpu":
        return make_mesh(model=2)
    return make_mesh(model=2, devices=request.getfixturevalue("tpu")(request.param).devices)


def compile_on(mesh, function, *, out=EACH, shape=None, donate=False) -> jax.stages.Compiled:
    """Compile a function of each device's own part of an array, of 8 x 256 if no shape is given."""
    shape = (8 * mesh.size, 256) if shape is None else shape
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, EACH))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=EACH, out_specs=out, check_vma=False)
    lowered = jax.jit(mapped, donate_argnums=(0,) if donate else ()).lower(x)
    return compiled(lowered)


def read(mesh, function, **options) -> list[Collective]:
    return emitted.collectives(emitted.program(compile_on(mesh, function, **options)))


@pytest.mark.parametrize("axes", ["data", "model", ("data", "model")], ids=str)
def test_a_sum_over_devices_is_an_all_reduce_of_each_part(mesh, axes):
    group = int(np.prod([mesh.shape[axis] for axis in np.atleast_1d(axes)]))
    found = read(mesh, lambda x: lax.psum(x, axes), out=WHOLE)
    assert found == [Collective("all-reduce", (PART,), group, 1)]
    assert found[0].bytes == BYTES
    assert found[0].sent == 2 * (group - 1) / group * BYTES


def test_an_all_gather_takes_the_own_part(mesh):
    gather = partial(lax.all_gather, axis_name="data", tiled=True)
    n = mesh.shape["data"]
    found = read(mesh, gather, out=PartitionSpec("model"))
    assert found == [Collective("all-gather", (PART,), n, 1)]
    assert found[0].sent == (n - 1) / n * (n * BYTES)


def test_a_reduce_scatter_takes_the_whole(mesh):
    scatter = partial(lax.psum_scatter, axis_name="data", tiled=True)
    n, whole = mesh.shape["data"], Array("f32", (64, 256))
    found = read(mesh, scatter, shape=(64 * mesh.size, 256))
    assert found == [Collective("reduce-scatter", (whole,), n, 1)]
    assert found[0].sent == (n - 1) / n * 64 * 256 * 4


def test_an_all_to_all_keeps_one_part_in_n(mesh):
    exchange = partial(lax.all_to_all, axis_name="data", split_axis=1, concat_axis=0, tiled=True)
    n = mesh.shape["data"]
    [found] = read(mesh, exchange)
    assert (found.kind, found.group, found.times) == ("all-to-all", n, 1)
    assert found.bytes == BYTES
    assert found.sent == (n - 1) / n * BYTES


def test_a_permute_in_a_loop_runs_in_every_round(mesh):
    found = read(mesh, partial(ring, data=mesh.shape["data"]))
    assert found == [Collective("collective-permute", (PART,), mesh.size, 7)]
    assert found[0].sent == BYTES


def test_rounds_of_loops_in_loops_multiply(mesh):
    assert [(one.kind, one.times) for one in read(mesh, nested)] == [("all-reduce", 15)]


@pytest.mark.parametrize("function", [until_large, if_positive])
def test_how_often_a_condition_holds_is_not_known(mesh, function):
    found = read(mesh, function)
    assert {(one.kind, one.times) for one in found} == {("all-reduce", None)}
    assert emitted.traffic(found) == {"all-reduce": Traffic(0, 0, len(found))}
    assert emitted.floor_seconds(found, CHIPS["v5e"]) == 0


def test_what_one_device_does_alone_exchanges_nothing(mesh):
    assert read(mesh, jnp.sin) == []


def test_memory_of_arguments_outputs_and_what_is_donated(mesh):
    kept = emitted.memory(compile_on(mesh, jnp.sin))
    given = emitted.memory(compile_on(mesh, jnp.sin, donate=True))
    assert (kept.arguments, kept.outputs, kept.aliased) == (BYTES, BYTES, 0)
    assert (given.arguments, given.outputs, given.aliased) == (BYTES, BYTES, BYTES)
    assert kept.total - kept.temporaries - kept.code == 2 * BYTES
    assert given.total - given.temporaries - given.code == BYTES


def test_temporaries_are_what_lies_between():
    mesh = make_mesh(model=2)
    between = compile_on(mesh, lambda x: (x @ x.T) @ (x @ x.T), shape=(512 * mesh.size, 8))
    assert emitted.memory(between).temporaries >= 512 * 512 * 4


GROUPS = {
    "{{0,2,4},{1,3,5}}": 3,
    "{{5}}": 1,
    "{}": 6,
    "[2,3]<=[6]": 3,
    "[3,2]<=[2,3]T(1,0)": 2,
    "mesh['data'=3,'model'=2] {'data'}": 3,
    "mesh['data'=3,'model'=2] {'data','model'}": 6,
    "mesh['data'=3,'model'=4] {'model':(1)2}": 2,
    "mesh['data'=3,'model'=2], device_ids=([2,3]T(1,0)) {'model'}": 2,
}


def text_with(groups: str, *, opcode="all-reduce", more="") -> str:
    return f"""HloModule jit_f, num_partitions=6

ENTRY %main (x: bf16[4,2]) -> bf16[4,2] {{
  %x = bf16[4,2]{{1,0:T(8,128)(2,1)}} parameter(0)
  %y = bf16[4,2]{{1,0}} {opcode}(%x), channel_id=1, replica_groups={groups}, to_apply=%add{more}
  ROOT %z = bf16[4,2]{{1,0}} copy(%y)
}}
"""


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_are_read_in_every_way_that_they_are_written(groups):
    expected = Collective("all-reduce", (Array("bf16", (4, 2)),), GROUPS[groups], 1)
    assert emitted.collectives(read_program(text_with(groups))) == [expected]


def test_a_program_of_one_device_has_groups_of_one():
    text = text_with("{}").replace(", num_partitions=6", "")
    assert emitted.collectives(read_program(text))[0].group == 1


def test_groups_that_cannot_be_read_are_refused():
    message = "cannot read the groups of y: '<0,1>, to_apply=%add'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        emitted.collectives(read_program(text_with("<0,1>")))


def test_what_starts_here_and_is_done_there_counts_once():
    text = """HloModule jit_f, num_partitions=8

%started (p: f32[8]) -> f32[2] {
  %p = f32[8]{0} parameter(0)
  ROOT %s = f32[2]{0} reduce-scatter(%p), channel_id=3, replica_groups=[2,4]<=[8], to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[2] {
  %x = f32[8]{0} parameter(0)
  %g = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), channel_id=1, replica_groups=[2,4]<=[8]
  %h = f32[32]{0} all-gather-done(%g)
  %r = f32[8]{0} all-reduce-start(%x), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add
  %q = f32[8]{0} all-reduce-done(%r)
  %a = ((f32[8]{0}), f32[2]{0}, u32[]) async-start(%x), calls=%started
  %b = ((f32[8]{0}), f32[2]{0}, u32[]) async-update(%a), calls=%started
  ROOT %c = f32[2]{0} async-done(%b), calls=%started
}
"""
    own = (Array("f32", (8,)),)
    assert emitted.collectives(read_program(text)) == [
        Collective("all-gather", own, 4, 1),
        Collective("all-reduce", own, 4, 1),
        Collective("reduce-scatter", own, 4, 1),
    ]


def test_pieces_that_a_tpu_spreads_over_products_are_one():
    chain = ', frontend_attributes={chain_id="0"}'
    piece = text_with("[1,6]<=[6]", opcode="all-gather", more=chain)
    line = next(row for row in piece.splitlines() if "%y" in row)
    pieces = piece.replace(line, f"{line}\n{line.replace('%y', '%w')}")
    assert len(emitted.collectives(read_program(pieces))) == 1
    others = pieces.replace("chain_id", "color")
    assert len(emitted.collectives(read_program(others))) == 2


def test_traffic_by_kind_and_the_floor_that_it_sets():
    part = (Array("bf16", (4, 100)),)
    exchanged = [
        Collective("all-reduce", part, 4, 10),
        Collective("all-reduce", part * 2, 2, 1),
        Collective("all-gather", part, 4, 3),
        Collective("collective-permute", part, 4, None),
    ]
    assert emitted.traffic(exchanged) == {
        "all-reduce": Traffic(11, 10 * 1200 + 1600, 0),
        "all-gather": Traffic(3, 3 * 2400, 0),
        "collective-permute": Traffic(0, 0, 1),
    }
    floor = emitted.floor_seconds(exchanged, CHIPS["v5e"])
    assert floor == pytest.approx((10 * 1200 + 1600 + 3 * 2400) / 200e9)


def test_operations_are_counted_with_what_they_give():
    program = read_program(text_with("[1,6]<=[6]"))
    assert emitted.operations(program, "copy", "sort") == {"copy": Traffic(1, 16, 0)}


def test_operations_within_loops_count_in_every_round():
    program = emitted.program(compile_on(make_mesh(model=2), nested))
    found = emitted.operations(program, "cosine", "sine")
    assert found == {"cosine": Traffic(5, 5 * BYTES, 0), "sine": Traffic(15, 15 * BYTES, 0)}
