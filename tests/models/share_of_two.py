"""One of two processes that load a model together: what it reads, and what it computes.

    python share_of_two.py PROCESS PORT FOLDER BATCH OUTPUT

Prints one JSON object; the model is saved to OUTPUT, gathered from both.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from ilo_jax.models.hub import loading, saving
from ilo_jax.models.hub.checkpoint import Mapped
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import along_data, make_mesh, replicated
from tests.models.reading import states

INPUTS = ("tokens", "positions", "segments")

reads: list[int] = []


class Counting(np.ndarray):
    """A tensor that counts the bytes it gives."""

    def __getitem__(self, index):
        block = np.asarray(self)[index]
        reads.append(block.nbytes)
        return block


class Counted(Mapped):
    """A file of such tensors."""

    def tensor(self, name: str) -> np.ndarray:
        return super().tensor(name).view(Counting)


def load_and_compute(
    folder: Path, batch: Path, *, data: int, model: int, fsdp: bool
) -> tuple[Transformer, dict[str, float]]:
    """Load on a mesh over both processes; return the model, the bytes read and the error."""
    reads.clear()
    mesh = make_mesh(data=data, model=model)
    loaded = loading.load(open_folder(folder), mesh=mesh, fsdp=fsdp)
    with np.load(batch) as arrays:
        rows, expected = [arrays[name] for name in INPUTS], arrays["states"]

    @nnx.jit(out_shardings=replicated(mesh))
    def run(loaded, *rows):
        return states(loaded, *rows)

    found = run(loaded, *jax.device_put(rows, along_data(mesh)))
    error = np.abs(np.stack([np.asarray(state) for state in found]) - expected).max()
    return loaded, {"read": sum(reads), "difference": float(error / np.abs(expected).max())}


def main() -> None:
    """Join the other process, and load on three meshes."""
    process, port = int(sys.argv[1]), sys.argv[2]
    folder, batch, output = map(Path, sys.argv[3:])
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    loading.Mapped = Counted
    _, tall = load_and_compute(folder, batch, data=1, model=8, fsdp=False)
    _, wide = load_and_compute(folder, batch, data=2, model=4, fsdp=False)
    model, split = load_and_compute(folder, batch, data=2, model=4, fsdp=True)
    saving.save(model, output, raw=open_folder(folder).raw)
    sys.stdout.write("\n" + json.dumps({"1x8": tall, "2x4": wide, "2x4 fsdp": split}) + "\n")


if __name__ == "__main__":
    main()
