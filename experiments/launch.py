"""How every job starts: its flags, its processes, and how bad input ends it."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from ml_collections import config_flags

from ilo_jax import processes
from ilo_jax.files import user_cache

FLAGS = flags.FLAGS


class Run(NamedTuple):
    """Where a run leaves its files, and what it is to leave besides."""

    workdir: Path
    profile: bool = False
    """Whether to leave a trace of the extraction in WORKDIR/trace."""


def say(text: str) -> None:
    """Print, on the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def launch(job: Callable[[Any, Run], Any], *, name: str, config: str) -> None:
    """Run a job with the configuration and the run folder of the command line.

    Args:
        job: called with both.
        name: of the experiment: run folders are runs/NAME/CONFIG by default.
        config: file of the default configuration.
    """
    config_flags.DEFINE_config_file("config", config, "What to measure.")
    flags.DEFINE_string("workdir", None, f"Run folder; default runs/{name}/NAME-OF-CONFIG.")
    flags.DEFINE_bool("profile", False, "Leave a trace of the extraction in WORKDIR/trace.")
    flags.DEFINE_bool("distributed", False, "Run as one of several processes.")
    flags.DEFINE_string("coordinator", None, "ADDRESS:PORT of process 0, if JAX cannot know.")
    flags.DEFINE_integer("processes", None, "How many there are, if JAX cannot know.")
    flags.DEFINE_integer("process", None, "Which of them this is, if JAX cannot know.")
    flags.DEFINE_integer("patience", 100, "Seconds until a silent process counts as gone.")
    app.run(lambda argv: _main(argv, job, name))


def _main(argv: list[str], job: Callable[[Any, Run], Any], name: str) -> None:
    """Run the job of the flags; bad input ends it with one clear line."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    config = Path(config_flags.get_config_filename(FLAGS["config"])).stem
    for chatty in ("absl", "jax", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(user_cache() / "ilo_jax/xla"))
    try:
        if FLAGS.distributed:
            processes.join(
                FLAGS.coordinator,
                processes=FLAGS.processes,
                process=FLAGS.process,
                patience=FLAGS.patience,
            )
        job(FLAGS.config, Run(Path(FLAGS.workdir or f"runs/{name}/{config}"), FLAGS.profile))
    except (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        logging.debug("where it happened", exc_info=True)
        if isinstance(error, RuntimeError) and not FLAGS.distributed:
            raise
        _stop(error)


def _stop(error: Exception) -> None:
    """End with one line; of several processes without waiting for the others, who may be gone."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    if FLAGS.distributed:
        print("start all processes again: what is stored stays", file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(1)
