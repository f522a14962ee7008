"""What a TPU's compiler makes of the search: what it holds, what it gathers, what devices exchange.

The devices are not there: nothing runs, and nothing is timed.
"""

import math
import re
from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax import emitted
from ilo_jax.hlo import Instruction, Program
from ilo_jax.metrics import nearest
from ilo_jax.sharding import make_mesh
from ilo_jax.topologies import compiled

POINTS, DIM = 2048, 32
RING = 8
OWN = POINTS // RING
# So that the scores of a block are fewer than those of all points, on one device too.
BLOCK = 256
SINGLE = re.compile(r"slice_sizes=\{1(,1)*\}")


def compiled_search(tpu: Any, devices: int, precision: str) -> tuple[Program, emitted.Memory]:
    slice_ = tpu("v5e:2x4" if devices == RING else "v5e:2x2")
    mesh = make_mesh(data=devices, devices=slice_.devices)
    over_all = NamedSharding(mesh, PartitionSpec(("data", "model")))
    points = jax.ShapeDtypeStruct((POINTS, DIM), jnp.float32, sharding=over_all)
    search = partial(nearest, k=5, precision=precision, mesh=mesh, block=BLOCK)
    program = compiled(jax.jit(search).lower(points))
    return emitted.program(program), emitted.memory(program)


@pytest.fixture(scope="module", params=["exact", "fast"])
def precision(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def ring(tpu, precision) -> tuple[Program, emitted.Memory]:
    return compiled_search(tpu, RING, precision)


@pytest.fixture(scope="module")
def alone(tpu) -> tuple[Program, emitted.Memory]:
    return compiled_search(tpu, 1, "exact")


def check_memory(program: Program, memory: emitted.Memory) -> None:
    most = max(math.prod(array.shape) for line in lines_of(program) for array in line.arrays)
    assert BLOCK * OWN <= most < POINTS**2
    assert memory.temporaries < POINTS**2 * 4


def lines_of(program: Program) -> list[Instruction]:
    return [line for _, line, _ in program.executed()]


def test_nothing_is_as_large_as_all_scores(ring, alone):
    check_memory(*ring)
    check_memory(*alone)


def test_the_ring_exchanges_keys_and_what_the_centre_is_made_of(ring, precision):
    """The points of a device leave it 7 times, while those that came are searched.

    And once more, where `fast` has anything to redo, which the text cannot know.
    """
    found = Counter(
        (one.kind, one.group, array.dtype, math.prod(array.shape), one.times)
        for one in emitted.collectives(ring[0])
        for array in one.arrays
    )
    expected = {
        ("all-reduce", RING, "f32", DIM, 1): 3,
        ("all-reduce", RING, "s32", 1, 1): 3,
        ("all-gather", RING, "f32", OWN, 1): 2,
        ("collective-permute", RING, "f32", OWN * DIM, RING - 1): 1,
        ("collective-permute", RING, "f32", OWN, RING - 1): 1,
    }
    again = {
        # What bfloat16 loses at most, and how many blocks a device has to redo at most.
        ("all-reduce", RING, "f32", 1, 1): 1,
        ("all-reduce", RING, "s32", 1, 1): 4,
        ("collective-permute", RING, "f32", OWN * DIM, None): 1,
        ("collective-permute", RING, "f32", OWN, None): 1,
    }
    if precision == "fast":
        expected |= again
    assert found == expected


def multiplies(program: Program, line: Instruction) -> bool:
    """Whether an instruction is a product, or calls one."""
    if line.opcode == "convolution":
        return True
    names = (line.attribute(name) for name in ("calls", "body"))
    called = (program.computations[name] for name in names if name in program.computations)
    return any(multiplies(program, one) for each in called for one in each.instructions.values())


def test_keys_travel_while_products_run(ring, precision):
    program, _ = ring
    bodies = 0
    for computation in program.computations.values():
        lines = list(computation.instructions.values())
        opcodes = [line.opcode for line in lines]
        if "collective-permute-start" not in opcodes:
            continue
        bodies += 1
        starts = len(lines) - 1 - opcodes[::-1].index("collective-permute-start")
        between = lines[starts : opcodes.index("collective-permute-done")]
        assert any(multiplies(program, line) for line in between)
    assert bodies == (2 if precision == "fast" else 1)


def test_scores_are_not_gathered_one_by_one(ring, alone):
    """But whole rows of points; single numbers only of what is searched for again."""
    for program, _ in (ring, alone):
        gathers = [line for line in lines_of(program) if line.opcode == "gather"]
        assert any(line.arrays[0].shape[-1] == DIM for line in gathers)
        single = [line.arrays[0] for line in gathers if SINGLE.search(line.attributes)]
        assert sum(math.prod(array.shape) for array in single) <= BLOCK


def test_bins_select_and_no_row_of_scores_is_sorted(alone):
    lines = lines_of(alone[0])
    assert any('custom_call_target="PartialReduce"' in line.attributes for line in lines)
    sorts = [line.arrays[0].shape for line in lines if line.opcode == "sort"]
    assert all(shape[-1] < POINTS for shape in sorts if len(shape) > 1)
