"""How long a model takes to compile whole and by parts, and what it then holds; nothing is run.

    python -m experiments.bench.compiling --model=FOLDER_OR_ID
    python -m experiments.bench.compiling --model=FOLDER_OR_ID --on=v5e:4x4 --model_parallel=4

Of the model only config.json is needed. Both ways take turns, JAX's caches empty each time; medians
are printed, and the ratio. Where the devices are not there, they are compiled for all the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import flags
from jax.sharding import Mesh

from experiments import launch, tables
from experiments.bench import timing
from ilo_jax import emitted
from ilo_jax.activations.forward import tapping
from ilo_jax.activations.store import DTYPES
from ilo_jax.activations.taps import read
from ilo_jax.compiling.program import ByParts
from ilo_jax.corpora.packing import abstract_rows
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import along_data, make_mesh, replicated
from ilo_jax.topologies import compiled, is_absent, topology
from ilo_jax.training import optimizers
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.step import abstract, make_step

FLAGS = flags.FLAGS
SHOWN = ("what", "way", "seconds", "cpu_seconds", "parts", "ratio", "temporaries_mib", "code_mib")


class Work(NamedTuple):
    """A function, and shapes in place of what it is given."""

    function: ByParts
    given: tuple[Any, ...]


class Size(NamedTuple):
    """Of what is computed at a time."""

    rows: int
    row_length: int
    dtype: str


def extraction(config: ModelConfig, mesh: Mesh, size: Size) -> Work:
    """The forward that pools all hidden states."""
    dtype, taps = jnp.dtype(size.dtype), read("residual:mean", config)
    model = parameters.abstract(config, dtype=dtype, mesh=mesh)
    weights = parameters.abstract_weights(model, mesh, dtype=dtype, fsdp=False)
    rows = abstract_rows(size.rows, size.row_length, sharding=along_data(mesh))
    return Work(tapping(config, mesh, taps, segments=32, dtype=dtype), (weights, rows))


def training(config: ModelConfig, mesh: Mesh, size: Size) -> Work:
    """A step of training all weights by AdamW."""
    model = parameters.abstract(config, dtype=jnp.float32, mesh=mesh)
    weights = parameters.abstract_weights(model, mesh, dtype=jnp.float32, fsdp=False)
    optimizer = optimizers.adamw(optax.constant_schedule(1e-5), weight_decay=0.01, clip=1.0)
    state = abstract(optimizer, weights, mesh)
    loss = next_token(config, mesh, dtype=jnp.dtype(size.dtype))
    rows = abstract_rows(1, size.rows, size.row_length, sharding=along_data(mesh, axis=1))
    key = jax.eval_shape(lambda: jax.random.key(0)).update(sharding=replicated(mesh))
    return Work(make_step(loss, optimizer, like=state, mesh=mesh), (state, {}, Batch(rows), key))


WORK = {"extraction": extraction, "training": training}


class Made(NamedTuple):
    """What compiling left."""

    parts: int
    memory: emitted.Memory


def compile_whole(make: Callable[[], Work]) -> Made:
    """Compile a function as one program."""
    jax.clear_caches()
    function, given = make()
    lowered = jax.jit(function.function, donate_argnums=function.donated).lower(*given)
    program = compiled(lowered) if is_absent(function.mesh) else lowered.compile()
    return Made(1, emitted.memory(program))


def compile_parts(make: Callable[[], Work]) -> Made:
    """Compile each distinct part of a function."""
    jax.clear_caches()
    function, given = make()
    program = function.compiled(*given)
    return Made(len(program.distinct), program.memory)


COMPILE = {"whole": compile_whole, "parts": compile_parts}


def compared(
    what: str, make: Callable[[], Work], *, ways: Sequence[str], rounds: int
) -> list[dict[str, Any]]:
    """What was measured of a function, one row for each way, ratios to the first."""
    calls = {name: partial(COMPILE[name], make) for name in ways}
    timed: dict[str, list[timing.Timed]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in calls.items():
            timed[name].append(timing.once(call))
    first = timing.medians(one.seconds for one in timed[ways[0]]).wall
    rows = []
    for name, each in timed.items():
        seconds, made = timing.medians(one.seconds for one in each), each[-1].result
        rows.append({
            "what": what,
            "way": name,
            "seconds": round(seconds.wall, 2),
            "cpu_seconds": round(seconds.cpu, 2),
            "parts": made.parts,
            "ratio": round(seconds.wall / first, 3),
            "temporaries_mib": round(made.memory.temporaries / 2**20, 1),
            "code_mib": round(made.memory.code / 2**20, 1),
        })
    return rows


def main() -> None:
    """Compile everything that is asked for, and show what it took."""
    jax.config.update("jax_enable_compilation_cache", False)
    devices = topology(FLAGS.on).devices if FLAGS.on else None
    mesh = make_mesh(model=FLAGS.model_parallel, devices=devices)
    config = open_folder(FLAGS.model).config
    size = Size(FLAGS.rows, FLAGS.row_length, FLAGS.dtype)
    shown = []
    for what in FLAGS.what:
        make = partial(WORK[what], config, mesh, size)
        shown += compared(what, make, ways=FLAGS.ways, rounds=FLAGS.rounds)
    print(tables.columns([SHOWN, *([str(row[name]) for name in SHOWN] for row in shown)]))


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A folder or hub id, of which config.json.", required=True)
    flags.DEFINE_string("on", "", "Devices to compile for, such as v5e:4x4; empty: those here.")
    flags.DEFINE_integer("model_parallel", 1, "Devices that share a copy.", lower_bound=1)
    flags.DEFINE_multi_enum("what", [*WORK], [*WORK], "What to compile; may be repeated.")
    flags.DEFINE_multi_enum("ways", [*COMPILE], [*COMPILE], "How; may be repeated.")
    flags.DEFINE_integer("rows", 8, "Computed at a time, over all devices.", lower_bound=1)
    flags.DEFINE_integer("row_length", 512, "Tokens of a row.", lower_bound=2)
    flags.DEFINE_enum("dtype", "float32", DTYPES, "Of the computation.")
    flags.DEFINE_integer("rounds", 5, "Of which medians are shown.", lower_bound=1)
    launch.start(main)
