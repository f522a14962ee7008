"""What a program takes of a device's memory: what its compiler says, and what the device says then.

    python -m experiments.bench.memory --model=FOLDER_OR_ID --what=extraction
    python -m experiments.bench.memory --model=FOLDER_OR_ID --what=training --dtype=bfloat16

It holds `experiments.fit`, which counts as the compiler does, to the device. Of the model only
config.json is needed: all weights are zero. What is run, once, is compiled before, and the peak is
that of the process; so one program a run. On CPUs, which do not say what they hold, the anonymous
memory of the process is watched. Adds a row to times.csv in --workdir.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import launch, tables
from experiments.bench import timing
from experiments.bench.compiling import WORK, Size, Work
from ilo_jax.activations.store import DTYPES
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh

FLAGS = flags.FLAGS

MIB = 2**20
SHOWN = ("what", "compiler_mib", "device_mib", "ratio", "seconds")


def zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    """What has a shape and lies as that says, and holds nothing."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.device_put(jax.random.key(0), like.sharding)
    return jnp.zeros(like.shape, like.dtype, device=like.sharding)


def measured(work: Work) -> dict[str, Any]:
    """The memory of a device that a program takes, its arguments included, said by both."""
    memory = work.function.compiled(*work.given).memory

    def run() -> Any:
        return work.function(*jax.tree.map(zeros, work.given))

    seconds, beyond = timing.peak_beyond(run)
    said = memory.total - memory.code
    return {
        "compiler_mib": round(said / MIB, 1),
        "device_mib": round(beyond / MIB, 1),
        "ratio": round(beyond / said, 3),
        "seconds": round(seconds.wall, 3),
    }


def main() -> None:
    """Measure what is asked for, and show it."""
    mesh, folder = make_mesh(data=1), open_folder(FLAGS.model)
    size = Size(FLAGS.rows, FLAGS.row_length, FLAGS.dtype)
    row = {"what": FLAGS.what} | measured(WORK[FLAGS.what](folder.config, mesh, size))
    print(tables.columns([SHOWN, [str(row[name]) for name in SHOWN]]))
    same = {"model": folder.name} | size._asdict() | {"device": jax.devices()[0].device_kind}
    file = Path(FLAGS.workdir) / "times.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    tables.extend(file, [*same, *SHOWN], [same | row])
    print(f"added to {file}")


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A folder or hub id, of which config.json.", required=True)
    flags.DEFINE_enum("what", "extraction", [*WORK], "Which program.")
    flags.DEFINE_integer("rows", 8, "Computed at a time.", lower_bound=1)
    flags.DEFINE_integer("row_length", 512, "Tokens of a row.", lower_bound=2)
    flags.DEFINE_enum("dtype", "float32", DTYPES, "Of the computation.")
    flags.DEFINE_string("workdir", "runs/bench_memory", "Where times.csv is.")
    launch.start(main)
