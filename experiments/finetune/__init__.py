"""A decoder learns one text; what that does to its languages is written down as it goes.

    python -m experiments.finetune --config.model=FOLDER_OR_ID --config.text=FILE --workdir=DIR
    python -m experiments.finetune --config=configs/finetune/smollm2.py --config.text=FILE
    python -m experiments.finetune --config.freeze=paper:8 --config.frozen_states=memory

Writes log.csv (every step), and, every `evaluate` steps, bits.csv (bits per byte of each language)
and ilo.csv (ILO of each language at each hidden state, with its references) into the run
folder, and in the end the model as a Hugging Face folder, model/. A run that was killed
continues from its last checkpoint, and ends bit-equal to one that was not. On several hosts,
start it on each with --distributed and a WORKDIR that all of them see.
"""

from pathlib import Path

import jax.numpy as jnp

from experiments.finetune.config import Config
from experiments.finetune.learner import language_learner
from experiments.finetune.record import Record
from experiments.finetune.setting import Setting, describe, prepare, training_key
from experiments.launch import Run, say
from experiments.provenance import leave_config
from experiments.watch import read_slice
from ilo_jax.evaluation.held_out import Slice
from ilo_jax.models import parameters
from ilo_jax.models.hub import saving
from ilo_jax.sharding import naming_knobs
from ilo_jax.training.checkpoints import Checkpoints
from ilo_jax.training.loop import Every
from ilo_jax.training.run import Trained, opened, run

__all__ = ["Config", "finetune"]

KNOBS = (
    "fewer rows_at_once, remat=True, a shorter row_length, dtype=bfloat16, more frozen blocks, or "
    "more devices to split the model over (model_parallel, fsdp)"
)
"""Fields of the configuration to change where memory is short."""


def finetune(config: Config, job: Run) -> Path | None:
    """Run the whole job and return the folder of the model; None if told to stop before.

    Raises:
        FloatingPointError: If the training diverges.
        ImportError: If a package that is asked for is not installed.
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the text, the corpus or the model cannot be used.
    """
    setting, folder = prepare(config), job.workdir / "model"
    held_out = _held_out(config, setting) if config.evaluate else None
    key = training_key(config, setting)
    job.make_folder()
    with opened(job.workdir, key) as checkpoints:
        if folder.is_dir() and checkpoints.latest() == config.steps:
            say(f"this training has ended already; its model is in {folder}")
        else:
            _refuse_in_the_way(folder)
            trained = _train(config, setting, job.workdir, checkpoints, held_out)
            if trained.step < config.steps:
                say(f"stopped after step {trained.step}; start again to continue")
                return None
            _save(trained, setting, folder)
        # It may have been killed after its model was saved, before it could.
        if not (job.workdir / "config.json").is_file():
            leave_config(job.workdir, config, key, corpus=held_out and held_out.corpus)
    return folder


def _held_out(config: Config, setting: Setting) -> Slice:
    measured = {"k": config.k, "min_languages": config.min_languages}
    return read_slice(config, setting.folder, setting.mesh, **measured)


def _refuse_in_the_way(folder: Path) -> None:
    if folder.exists():
        raise FileExistsError(
            f"{folder} is there, but the training that is to end in it has not ended; "
            "remove it, or choose another --workdir"
        )


def _train(
    config: Config,
    setting: Setting,
    workdir: Path,
    checkpoints: Checkpoints,
    held_out: Slice | None,
) -> Trained:
    say(describe(setting, cached=bool(config.frozen_states), remat=config.remat))
    record = Record(config, setting, workdir, held_out)
    with naming_knobs(setting.part, KNOBS):
        return run(
            language_learner(config, setting, workdir),
            checkpoints,
            every=Every(config.evaluate, config.save),
            log=record.log,
            evaluate=record.evaluate,
            begun=record.begin,
        )


def _save(trained: Trained, setting: Setting, folder: Path) -> None:
    assemble = parameters.assembler(setting.model, setting.mesh, dtype=jnp.float32)
    saving.save(
        assemble({**trained.weights, **trained.frozen}),
        folder,
        raw=setting.folder.raw,
        beside=setting.folder.path,
    )
    say(f"the model is in {folder}, what was measured beside it")
