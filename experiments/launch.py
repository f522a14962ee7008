"""How every script starts: its flags, its processes, and how what a user can cause ends it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from absl import app, flags
from ml_collections import config_flags

from ilo_jax import processes
from ilo_jax.files import user_cache

FLAGS = flags.FLAGS

CAUSED = (ArithmeticError, ImportError, MemoryError, OSError, ValueError)
"""Errors that somebody who starts a script can cause: they end it with one line."""
CHATTY = ("absl", "jax", "matplotlib", "transformers")
"""Whose log is kept to warnings."""


class Run(NamedTuple):
    """Where a run leaves its files, and what it is to leave besides."""

    workdir: Path
    profile: bool = False
    """Whether to leave a trace of what the devices do in WORKDIR/trace."""

    def traced(self) -> AbstractContextManager:
        """What leaves a trace of all that is computed within it, if that is asked for."""
        return jax.profiler.trace(self.workdir / "trace") if self.profile else nullcontext()


def say(text: str) -> None:
    """Print, on the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def launch(
    job: Callable[[Any, Run], Any], *, name: str, config: str, profile: bool = False
) -> None:
    """Run a job with the configuration and the run folder of the command line.

    Args:
        job: Called with both.
        name: Of the experiment: run folders are runs/NAME/CONFIG by default.
        config: File of the default configuration.
        profile: Whether the job can leave a trace, so that there is a flag to ask for it.
    """
    with _flags_of_the_user():
        config_flags.DEFINE_config_file("config", config, "What to measure.")
    flags.DEFINE_string("workdir", None, f"Run folder; default runs/{name}/NAME-OF-CONFIG.")
    if profile:
        flags.DEFINE_bool("profile", False, "Leave a trace of the devices in WORKDIR/trace.")
    flags.DEFINE_bool("distributed", False, "Run as one of several processes.")
    flags.DEFINE_string("coordinator", None, "ADDRESS:PORT of process 0, if JAX cannot know.")
    flags.DEFINE_integer("processes", None, "How many there are, if JAX cannot know.")
    flags.DEFINE_integer("process", None, "Which of them this is, if JAX cannot know.")
    patience = "Seconds until a silent process counts as gone."
    flags.DEFINE_integer("patience", processes.PATIENCE, patience)
    start(lambda: _main(job, name, profile))


def start(main: Callable[[], int | None]) -> None:
    """Run a script whose flags are defined; what a user can cause ends it with one line.

    Args:
        main: Returns the exit status, None for 0; an error that is one of `CAUSED` makes it 1.
    """
    app.run(lambda argv: _guarded(argv, main), flags_parser=_parsed)


def _parsed(argv: list[str]) -> list[str]:
    """The arguments that are no flags."""
    with _flags_of_the_user():
        return FLAGS(argv)


@contextmanager
def _flags_of_the_user() -> Iterator[None]:
    """End with one line where flags are unknown or their values are."""
    try:
        yield
    except (flags.Error, KeyError) as error:  # KeyError: of a field that a Config has not
        _stop(error.args[0])


def _guarded(argv: list[str], main: Callable[[], int | None]) -> int | None:
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ValueError(f"unknown arguments: {' '.join(argv[1:])}")
        return main()
    except CAUSED as error:
        logging.debug("where it happened", exc_info=True)
        _stop(error)


def _stop(error: object) -> NoReturn:
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(1)


def _main(job: Callable[[Any, Run], Any], name: str, profile: bool) -> None:
    """Run the job of the flags, as one of several processes where they say so."""
    file = Path(config_flags.get_config_filename(FLAGS["config"]))
    if not file.is_file():
        raise FileNotFoundError(f"--config must be a Python file, got {file}")
    jax.config.update("jax_compilation_cache_dir", str(user_cache() / "ilo_jax/xla"))
    run = Run(Path(FLAGS.workdir or f"runs/{name}/{file.stem}"), profile and FLAGS.profile)
    if FLAGS.distributed:
        _join(lambda: job(FLAGS.config, run))
    else:
        job(FLAGS.config, run)


def _join(main: Callable[[], Any]) -> None:
    """Run as one of several processes; end without waiting for the others, who may be gone."""
    try:
        processes.join(
            FLAGS.coordinator,
            processes=FLAGS.processes,
            process=FLAGS.process,
            patience=FLAGS.patience,
        )
        main()
    except (*CAUSED, RuntimeError) as error:
        logging.debug("where it happened", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        print("start all processes again: what is stored stays", file=sys.stderr, flush=True)
        os._exit(1)
