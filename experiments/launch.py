"""How every script starts: its flags, its processes, and how what a user can cause ends it."""

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from absl import app, flags
from ml_collections import config_flags

from experiments import command_line
from ilo_jax import alarm, joining
from ilo_jax.files import own_folder, user_cache
from ilo_jax.processes import together
from ilo_jax.topologies import undisturbed

FLAGS = flags.FLAGS

CAUSED = (ArithmeticError, ImportError, MemoryError, OSError, ValueError)
"""Errors that somebody who starts a script can cause: they end it with one line."""
CHECKOUT = Path(__file__).parents[1]
"""Where configurations that come with the jobs lie."""
CHATTY = ("absl", "jax", "matplotlib", "transformers")
"""Whose log is kept to warnings."""


class Run(NamedTuple):
    """Where a run leaves its files, and what it is to leave besides."""

    workdir: Path
    profile: bool = False
    """Whether to leave a trace of what the devices do in WORKDIR/trace."""

    def make_folder(self) -> None:
        """Make the run folder if it is not there; every process does.

        Raises:
            OSError: If it cannot be made.
            RuntimeError: If it cannot on another process.
        """
        together(self._make_folder, what=f"making {self.workdir}")

    def _make_folder(self) -> None:
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot make the run folder {self.workdir}: {error.strerror}; choose another "
                "--workdir"
            ) from error

    def traced(self) -> AbstractContextManager:
        """What leaves a trace of all that is computed within it, if that is asked for."""
        return jax.profiler.trace(self.workdir / "trace") if self.profile else nullcontext()


def say(text: str, *, end: str = "\n") -> None:
    """Print, on the first process only; what the terminal cannot show, as escapes."""
    if jax.process_index() == 0:
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, flush=True)


def launch(
    job: Callable[[Any, Run], Any], *, name: str, config: str, profile: bool = False
) -> None:
    """Run a job with the configuration and the run folder of the command line.

    Args:
        job: Called with both.
        name: Of the experiment: run folders are runs/NAME/CONFIG by default.
        config: File of the default configuration, in the checkout; its class is the job's.
        profile: Whether the job can leave a trace, so that there is a flag to ask for it.
    """
    define_config(config)
    flags.DEFINE_string("workdir", None, f"Run folder; default runs/{name}/NAME-OF-CONFIG.")
    if profile:
        flags.DEFINE_bool("profile", False, "Leave a trace of the devices in WORKDIR/trace.")
    flags.DEFINE_bool("distributed", False, "Run as one of several processes.")
    flags.DEFINE_string("coordinator", None, "ADDRESS:PORT of process 0, if JAX cannot know.")
    flags.DEFINE_integer("processes", None, "How many there are, if JAX cannot know.")
    flags.DEFINE_integer("process", None, "Which of them this is, if JAX cannot know.")
    patience = "Seconds until a process that has not come, or is silent, counts as gone."
    flags.DEFINE_integer("patience", joining.PATIENCE, patience, lower_bound=1)
    _run(lambda: _main(job, name, config, profile), sys.modules[job.__module__].__doc__)


def define_config(file: str, *, of_any_job: bool = False) -> None:
    """Define --config, with a default file, and a flag of each field that the user sets.

    Args:
        file: In the checkout; its class is the job's.
        of_any_job: Whether the file that the user names may be another job's: then its class is.
    """
    with _flags_of_the_user():
        named = command_line.config_file(_words()) if of_any_job else None
        _define_config(file, command_line.read_config(named or str(CHECKOUT / file)))


def config_file(file: str) -> str:
    """The file that the configuration began with.

    Args:
        file: The default, as given to `define_config`.
    """
    given = FLAGS["config"]
    return config_flags.get_config_filename(given) if given.present else file


def _words() -> list[str]:
    """All words of the command line, those in --flagfile too."""
    return FLAGS.read_flags_from_files(sys.argv, force_gnu=False)


def _define_config(file: str, default: Any) -> None:
    known = {field.name for field in dataclasses.fields(default)}
    config_flags.DEFINE_config_dataclass(
        "config",
        default,
        "Python file whose get_config() gives the configuration.",
        parse_fn=partial(command_line.read_config, kind=type(default)),
        # Fields that it has not are left: the parser tells of them, as of other unknown flags.
        sys_argv=[word for word in _words() if (command_line.field_of(word) or "") in {"", *known}],
    )
    FLAGS["config"].default_as_str = repr(file)


def start(main: Callable[[], int | None], *, about: str | None = None) -> None:
    """Run a script whose flags are defined; what a user can cause ends it with one line.

    Args:
        main: Returns the exit status, None for 0; an error that is one of `CAUSED` makes it 1.
        about: What --help says first; None: the docstring of the script.
    """
    _run(main, about or sys.modules["__main__"].__doc__)


def _run(main: Callable[[], int | None], about: str | None) -> None:
    app.run(lambda _: _guarded(main), flags_parser=lambda argv: _parsed(argv, about or ""))


def _parsed(argv: list[str], about: str) -> list[str]:
    """Parse the flags; end where there is anything else, or help is asked for."""
    words = [word for word in argv if not command_line.asks_for_help(word)]
    with _flags_of_the_user():
        if len(words) < len(argv):
            _help(words, about, full="--helpfull" in argv)
        FLAGS.set_gnu_getopt()  # or what comes after an argument would not be parsed
        if left := FLAGS(words)[1:]:
            raise flags.Error(f"unknown arguments: {' '.join(left)}; --help lists all flags")
    return argv[:1]


def _unknown(words: list[str], first: str) -> str:
    """What to say of flags that nobody knows, of which one is the first."""
    config: Any = FLAGS["config"].value if "config" in FLAGS else None
    fields = dataclasses.fields(config) if config is not None else ()
    known = {*FLAGS, *(f"{command_line.PREFIX}{field.name}" for field in fields)}
    names = [name for name in command_line.flags_of(words) if name not in known]
    return command_line.unknown(names if first in names else [first, *names], known)


def _help(words: list[str], about: str, *, full: bool) -> NoReturn:
    """Print help, with the values of the configuration that the words ask for."""
    if "config" in FLAGS:  # and so no flag is required
        FLAGS(words, known_only=True)
    defined = FLAGS.flags_by_module_dict()
    modules = defined if full else [__name__, sys.argv[0]]
    plain = [flag for module in modules for flag in defined.get(module, ()) if "." not in flag.name]
    config = FLAGS.config if "config" in FLAGS else None
    print(command_line.help_text(about, config, plain))
    sys.exit(0)


@contextmanager
def _flags_of_the_user() -> Iterator[None]:
    """End with one line where flags are unknown or their values are."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        _stop(_unknown(sys.argv[1:], error.flagname))
    except flags.IllegalFlagValueError as error:
        _stop(command_line.refused(error, FLAGS))
    except (flags.Error, OSError, ValueError) as error:
        _stop(error)


def _guarded(main: Callable[[], int | None]) -> int | None:
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with undisturbed():
            return main()
    except CAUSED as error:
        logging.debug("where it happened", exc_info=True)
        _stop(error)


def _stop(error: object) -> NoReturn:
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(1)


def _main(job: Callable[[Any, Run], Any], name: str, config: str, profile: bool) -> None:
    """Run the job of the flags, as one of several processes where they say so."""
    file = Path(config_file(config))
    _keep_compiled()
    run = Run(Path(FLAGS.workdir or f"runs/{name}/{file.stem}"), profile and FLAGS.profile)
    if FLAGS.distributed:
        _join(lambda: job(FLAGS.config, run))
    else:
        job(FLAGS.config, run)


def _keep_compiled() -> None:
    """Let JAX keep what it compiles, where the user has a cache."""
    try:
        folder = own_folder(user_cache() / "ilo_jax") / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    except OSError as error:
        logging.warning("what is compiled is not kept: %s", error)


def _join(main: Callable[[], Any]) -> None:
    """Run as one of several processes; end without waiting for the others, who may be gone."""
    try:
        joining.join(
            FLAGS.coordinator,
            processes=FLAGS.processes,
            process=FLAGS.process,
            patience=FLAGS.patience,
        )
    except (*CAUSED, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # a thread may still wait for the others
    try:
        with alarm.listening(_end_together):
            main()
    except CAUSED as error:
        alarm.tell(" ".join(str(error).split()))
        _end_together(error)
    except RuntimeError as error:  # for the most part, what another's failure leads to
        _end_together(alarm.tell(" ".join(str(error).split())))


def _end_together(error: object) -> NoReturn:
    """Say why, and end once the other processes can know."""
    logging.debug("where it happened", exc_info=True)
    print(f"error: {error}", file=sys.stderr)
    print("start all processes again: what is stored stays", file=sys.stderr, flush=True)
    alarm.let_hear()
    os._exit(1)
