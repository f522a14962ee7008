"""What models are judged by held-out sentences, measured once and kept."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hardware import make_mesh
from experiments.settings import Compute
from ilo_jax.evaluation.held_out import Judgement, Slice, TextScores, judge, judgement_key
from ilo_jax.files import key_digest, write_beside
from ilo_jax.metrics import ReferencedScores
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import Folder


def judged(
    folder: Folder, held_out: Slice, source: Compute, *, name: str, within: Path
) -> Judgement:
    """What sentences say of a model: measured now, unless it was before.

    Args:
        folder: Opened folder of the model.
        held_out: The sentences.
        source: How the model lies on the devices.
        name: Of the model, in messages and in the name of the file that is kept.
        within: Folder of such files, made if it is not there.

    Raises:
        MemoryError: If a device has too little.
        OSError: If the model cannot be read, or the file not written.
        ValueError: If the model is damaged, or its states are not finite.
    """
    digest = key_digest(judgement_key(held_out, folder.fingerprint))
    file = within / f"{name}-{digest}.npz"
    if file.is_file():
        return kept(file)
    mesh = make_mesh(source)
    model = loading.load(folder, mesh=mesh, fsdp=source.fsdp, dtype=jnp.float32)
    found = judge(model, held_out, name=name)
    if jax.process_index() == 0:
        keep(file, found)
    return found


def keep(file: Path, found: Judgement) -> None:
    """Write what was found of a model, whole or not at all."""
    arrays = {f"texts_{name}": array for name, array in found.texts._asdict().items()}
    arrays |= {f"scores_{name}": array for name, array in found.scores._asdict().items()}

    def write(beside: Path) -> None:
        with beside.open("wb") as stream:
            np.savez(stream, **arrays, retrieved=found.retrieved)

    file.parent.mkdir(parents=True, exist_ok=True)
    write_beside(file, write)


def kept(file: Path) -> Judgement:
    """What was written."""
    with np.load(file, allow_pickle=False) as arrays:
        texts = {name: arrays[f"texts_{name}"] for name in TextScores._fields}
        scores = {name: arrays[f"scores_{name}"] for name in ReferencedScores._fields}
        retrieved = arrays["retrieved"]
    return Judgement(TextScores(**texts), ReferencedScores(**scores), retrieved)
