"""A model learns from scratch; its checkpoints are kept as a series.

    python -m experiments.pretrain --config=configs/pretrain/sample.py
    python -m experiments.pretrain --config=configs/pretrain/multilingual.py --config.text=FOLDER
    python -m experiments.pretrain --config.model=bert --config.objective=masked

Into the run folder it writes tokenizer/ (where one is learnt), log.csv (every step) and series/: a
Hugging Face folder for every power of two, and an index, series.json, with the loss of each
checkpoint and what a byte of each language costs it, on documents that nobody learns from. Every
`evaluate` steps it writes bits.csv and ilo.csv, too, as experiments.finetune does. A run that was
killed continues from its last checkpoint, and ends bit-equal to one that was not. On several hosts,
start it on each with --distributed and a WORKDIR that all of them see.
"""

from pathlib import Path

from experiments.launch import Run, say
from experiments.pretrain.config import Config
from experiments.pretrain.learner import language_learner
from experiments.pretrain.record import Record
from experiments.pretrain.setting import Setting, describe, prepare, training_key
from experiments.provenance import leave_config
from experiments.watch import read_slice
from ilo_jax.evaluation.held_out import Slice
from ilo_jax.models.hub.series import folder_name
from ilo_jax.sharding import naming_knobs
from ilo_jax.training.checkpoints import Checkpoints, Key
from ilo_jax.training.run import opened, run
from ilo_jax.training.series import Series

__all__ = ["Config", "pretrain"]

KNOBS = (
    "fewer rows_at_once, remat=True, a shorter row_length, dtype=bfloat16, or more devices to "
    "split the model over (model_parallel, fsdp)"
)
"""Fields of the configuration to change where memory is short."""


def pretrain(config: Config, job: Run) -> Path | None:
    """Run the whole job and return the folder of the last model; None if told to stop before.

    Raises:
        FloatingPointError: If the training diverges.
        ImportError: If a package that is asked for is not installed.
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the text, the corpus or the model cannot be used.
    """
    setting = prepare(config, job)
    held_out = _held_out(config, setting) if config.evaluate else None
    key, last = training_key(config, setting), job.workdir / "series" / folder_name(config.steps)
    with opened(job.workdir, key) as checkpoints:
        if checkpoints.latest() == config.steps:
            say(f"this training has ended already; its last model is {last}")
        elif not _train(config, setting, job.workdir, checkpoints, key, held_out):
            return None
        # It may have been killed after its last checkpoint, before it could.
        if not (job.workdir / "config.json").is_file():
            leave_config(job.workdir, config, key, corpus=held_out and held_out.corpus)
    return last


def _held_out(config: Config, setting: Setting) -> Slice:
    measured = {"k": config.k, "min_languages": config.min_languages}
    return read_slice(config, setting.folder, setting.mesh, **measured)


def _train(
    config: Config,
    setting: Setting,
    workdir: Path,
    checkpoints: Checkpoints,
    key: Key,
    held_out: Slice | None,
) -> bool:
    """Train, and tell whether it went on to the end."""
    record = Record(config, setting, _series(config, setting, workdir, key), held_out)
    say(describe(config, setting))
    with naming_knobs(f"{config.rows} rows of {config.row_length} tokens", KNOBS):
        trained = run(
            language_learner(config, setting),
            checkpoints,
            every=record.every,
            log=record.log,
            evaluate=record.evaluate,
            begun=record.begin,
        )
    ended = trained.step == config.steps
    where = f"the series is in {record.series.folder}, what was logged beside it"
    say(where if ended else f"stopped after step {trained.step}; start again to continue")
    return ended


def _series(config: Config, setting: Setting, workdir: Path, key: Key) -> Series:
    measure = "bits_per_byte" if setting.vocabulary is None else "nats_per_token"
    return Series(
        workdir / "series",
        {**key, "judged": config.judged},
        raw=setting.folder.raw,
        beside=setting.folder.path,
        measure=measure,
    )
