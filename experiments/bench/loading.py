"""Loading a checkpoint: our `loading.load` against `safetensors.numpy.load_file` and `device_put`.

    python -m experiments.bench.loading
    python -m experiments.bench.loading --gib=3 --rounds=7

Writes a synthetic bfloat16 checkpoint of Llama's architecture to a temporary folder,
loads it in turn in both ways in one process, and prints the medians and their ratio;
then once more each in a process of its own, whose peak of anonymous memory it watches
(file pages that the kernel may drop are not counted). The file is in the page cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from absl import flags
from safetensors.numpy import load_file, save_file

from experiments import launch
from experiments.bench.timing import alternating, anonymous
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.families import family_of, read_config
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.hub.placement import by_tensor, sources
from ilo_jax.models.parameters import abstract, shapes, weights
from ilo_jax.sharding import make_mesh

FLAGS = flags.FLAGS

RAW = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
}


def write_checkpoint(folder: Path, *, gib: float) -> int:
    """Write random weights of about the size asked for; return how many bytes."""
    outside = 2 * 2 * RAW["vocab_size"] * RAW["hidden_size"]
    block = 2 * RAW["hidden_size"] * (2.5 * RAW["hidden_size"] + 3 * RAW["intermediate_size"])
    raw = RAW | {"num_hidden_layers": max(1, round((gib * 2**30 - outside) / block))}
    config = read_config(raw)
    like = shapes(abstract(config, dtype=ml_dtypes.bfloat16))
    parts = by_tensor(sources(family_of(raw), config, {path: like[path].shape for path in like}))
    rng = np.random.default_rng(0)
    tensors = {}
    for name, part in parts.items():
        ((path, source),) = part.items()
        noise = rng.standard_normal(source.shape(like[path].shape), np.float32)
        tensors[name] = noise.astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(raw))
    return sum(tensor.nbytes for tensor in tensors.values())


def ours(folder: Path) -> list[jax.Array]:
    """Load by `loading.load`: checked, named, transposed and placed."""
    model = loading.load(open_folder(folder), mesh=make_mesh(data=1), dtype=ml_dtypes.bfloat16)
    return list(weights(model).values())


def peer(folder: Path) -> list[jax.Array]:
    """Load a dict of arrays as they are in the file."""
    tensors = load_file(folder / "model.safetensors")
    return [jax.device_put(tensors.pop(name)) for name in list(tensors)]


LOADERS: dict[str, Callable[[Path], list[jax.Array]]] = {"ours": ours, "peer": peer}


def load_once(name: str, folder: Path) -> None:
    """Load until every array is there, and keep none."""
    jax.block_until_ready(LOADERS[name](folder))


def peak(name: str, folder: Path) -> int:
    """The peak of anonymous memory of a process that loads once, and nothing else."""
    command = [sys.executable, "-m", "experiments.bench.loading"]
    command += [f"--only={name}", f"--folder={folder}"]
    process = subprocess.Popen(command, env=os.environ)
    most = 0
    while process.poll() is None:
        most = max(most, anonymous(process.pid))
        time.sleep(0.001)
    if process.returncode:
        raise ChildProcessError(f"loading {name} in a process of its own failed")
    return most


def main() -> None:
    """Compare, or load once where --only says so."""
    if FLAGS.only:
        load_once(FLAGS.only, Path(FLAGS.folder or "."))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = write_checkpoint(folder, gib=FLAGS.gib)
        calls = {name: partial(load_once, name, folder) for name in LOADERS}
        times = {
            name: timed.seconds.wall
            for name, timed in alternating(calls, rounds=FLAGS.rounds).items()
        }
        peaks = {name: peak(name, folder) for name in LOADERS}
    print(
        f"{size / 2**30:.2f} GiB of bfloat16, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    for name in LOADERS:
        print(
            f"{name}: median {times[name]:.2f} s of {FLAGS.rounds}, "
            f"peak anonymous memory {peaks[name] / size:.3f} x the checkpoint"
        )
    print(f"time of ours / time of the peer: {times['ours'] / times['peer']:.2f}")


if __name__ == "__main__":
    flags.DEFINE_float("gib", 1.5, "Size of the checkpoint.", lower_bound=0.05)
    flags.DEFINE_integer("rounds", 5, "Loads of each kind.", lower_bound=5)
    flags.DEFINE_enum("only", None, ["ours", "peer"], "Load --folder once, this way.")
    flags.DEFINE_string("folder", None, "With --only: the checkpoint.")
    launch.start(main)
