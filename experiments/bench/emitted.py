"""What a TPU's compiler makes of the search for neighbours, read from what it emits; none is run.

    python -m experiments.bench.emitted --on=v5e:2x2 --devices=1
    python -m experiments.bench.emitted --on=v5e:2x4 --dim=384 --precision=fast
    python -m experiments.bench.emitted --on=v5e:2x2 --devices=1 --tile=12

With `--tile` by staged selection, as on CPUs and GPUs, in place of bins and a count. Needs
libtpu (`pip install -e '.[tpu]'`), no TPU. What is in a loop counts as in one of its rounds.
"""

import math
import re
import time
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from experiments import launch
from ilo_jax import emitted
from ilo_jax.hlo import Instruction, Program
from ilo_jax.metrics import nearest
from ilo_jax.sharding import make_mesh
from ilo_jax.topologies import compiled, topology

FLAGS = flags.FLAGS

SINGLE = re.compile(r"slice_sizes=\{1(,1)*\}")
"""Of a gather of numbers from all over an array, instead of whole rows."""


def searched(
    on: str,
    *,
    devices: int | None,
    shape: tuple[int, int],
    k: int,
    precision: str,
    tile: int | None,
) -> jax.stages.Compiled:
    """The search for the neighbours of points, compiled for chips that need not be there."""
    mesh = make_mesh(data=devices, devices=topology(on).devices)
    even = mesh.size * math.ceil(shape[0] / mesh.size)
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    points = jax.ShapeDtypeStruct((even, shape[1]), jnp.float32, sharding=split)
    search = partial(nearest, k=k, precision=precision, mesh=mesh, tile=tile)
    return compiled(jax.jit(search).lower(points))


def gathered_singly(program: Program) -> int:
    """Numbers that are gathered one by one."""
    return sum(
        math.prod(line.arrays[0].shape)
        for _, line, _ in program.executed()
        if line.opcode == "gather" and SINGLE.search(line.attributes)
    )


def sorts(program: Program) -> Iterator[tuple[int, ...]]:
    """Shapes of what is sorted along its last axis."""
    for _, line, _ in program.executed():
        if line.opcode == "sort":
            yield line.arrays[0].shape


def selections(program: Program) -> set[str]:
    """The compiler's own instructions of selection that are used."""
    found = {of for _, line, _ in program.executed() if (of := _target(line))}
    return found & {"PartialReduce", "TopK"}


def _target(line: Instruction) -> str:
    match = re.search(r'custom_call_target="(\w+)"', line.attributes)
    return match[1] if match else ""


def main() -> None:
    """Compile the search, and print what it takes and does."""
    start = time.monotonic()
    search = searched(
        FLAGS.on,
        devices=FLAGS.devices,
        shape=(FLAGS.points, FLAGS.dim),
        k=FLAGS.k,
        precision=FLAGS.precision,
        tile=FLAGS.tile,
    )
    program, memory = emitted.program(search), emitted.memory(search)
    print(f"{FLAGS.points} x {FLAGS.dim}, {FLAGS.precision}, {FLAGS.on}, {program.devices} devices")
    print(f"compiled in {time.monotonic() - start:.0f} s, jax {jax.__version__}")
    print(f"temporaries a device: {memory.temporaries / 2**20:,.1f} MiB")
    print(f"numbers gathered one by one: {gathered_singly(program):,}")
    widest = max(sorts(program), key=math.prod)
    print(f"largest sort: {' x '.join(map(str, widest))}")
    print(f"selected by: {', '.join(sorted(selections(program))) or 'sorts'}")
    for kind, traffic in emitted.traffic(emitted.collectives(program)).items():
        more = f", and {traffic.uncounted} where points are redone" if traffic.uncounted else ""
        print(f"{kind}: {traffic.operations}, {traffic.bytes / 2**20:,.1f} MiB sent{more}")


if __name__ == "__main__":
    flags.DEFINE_string("on", "v5e:2x2", "Chips, as ilo_jax.topologies names them.")
    flags.DEFINE_integer("devices", None, "How many of them; by default all.", lower_bound=1)
    flags.DEFINE_integer("points", 30907, "Points of all languages together.", lower_bound=2)
    flags.DEFINE_integer("dim", 4096, "Of each point.", lower_bound=1)
    flags.DEFINE_integer("k", 5, "Neighbours.", lower_bound=1)
    flags.DEFINE_enum("precision", "exact", ["exact", "fast"], "Of the products that propose.")
    flags.DEFINE_integer("tile", None, "Of staged selection.", lower_bound=1)
    launch.start(main)
