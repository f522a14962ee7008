"""What a job takes of TPUs or GPUs that need not be there: its programs, compiled for them.

    python -m experiments.fit --config=configs/extract/sample.py --on=v5e:2x2
    python -m experiments.fit --config=configs/ilo/flores_llama31_8b.py --on=v5e:4x4 --suggest
    python -m experiments.fit --config=configs/finetune/smollm2.py --on=v5p:2x2x2 --save=FOLDER

The configuration is that of the job: ilo, extract, finetune, generate or pretrain. Of the model
config.json is read, and nothing else, and of the text nothing at all. For each program that the job
runs again and again it prints what that takes of the memory of a device, by the compiler, and what
its products, reading its weights and what is sent to other devices take at least, by the chip's
published peaks: floors, not times. --suggest looks for settings that fit, and prints the command
line of the job with them. Exit status: 0 if it fits, 1 if not.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.fit import report, suggestions
from experiments.fit.jobs import check_config, model_config, workloads
from experiments.fit.workload import Asked, Made, Workload
from experiments.hardware import make_mesh, settled
from experiments.launch import say
from ilo_jax.chips import GIB
from ilo_jax.files import write_text
from ilo_jax.models import parameters
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import share
from ilo_jax.topologies import Topology, topology

TRIES = 4
"""How many settings are compiled at most, one after the other, until one fits."""


class Question(NamedTuple):
    """Whether a job fits devices."""

    file: str
    """Of the configuration that the job's began with."""
    model: Transformer
    """Abstract."""
    asked: Asked
    on: str
    """Name of the devices."""
    devices: Topology


def fit(
    config: Any, asked: Asked, *, on: str, file: str, suggest: bool = False, save: str = ""
) -> bool:
    """Say what a job takes of devices, and tell whether it fits them.

    Args:
        config: Of the job.
        asked: What it leaves to the text.
        on: Name of the devices, as `ilo_jax.topologies` has them.
        file: That the configuration began with.
        suggest: Whether to look for settings that fit.
        save: Folder for the text of what is compiled; empty: nowhere.

    Raises:
        ImportError: If the compiler for the devices is not installed.
        OSError: If config.json is absent, or something cannot be written.
        ValueError: If the job is none that is known here, its settings or its model cannot be used,
            or there are no such devices.
    """
    check_config(config)
    devices = topology(on)
    config = settled(config, devices.devices)
    model = parameters.abstract(model_config(config), dtype=jnp.float32)
    question = Question(file, model, asked, on, devices)
    if suggest:
        return _suggest(config, question, save)
    fits = _tell(config, question, save)
    if not fits:
        say(_advice(config, question))
    return fits


def _tell(config: Any, question: Question, save: str) -> bool:
    """Say what each of a job's workloads takes, and tell whether all of them fit."""
    mesh = make_mesh(config, question.devices.devices)
    share(mesh)
    rows, ways = mesh.devices.shape
    say(f"{question.on}: {mesh.size} devices as {rows} x {ways} (data x model)")
    fits = True
    for number, work in enumerate(workloads(config, question.model, mesh, question.asked)):
        say(f"\n{work.title}")
        fits &= _fits(work, question.devices, Path(save, str(number)) if save else None)
    return fits


def _fits(work: Workload, devices: Topology, folder: Path | None) -> bool:
    """Say what a workload takes, and tell whether that fits a device."""
    held = report.held(work, devices.chip)
    if not held.fits:
        say(report.memory_table(held) + " before anything is computed, and nothing was compiled")
        return False
    begun = time.perf_counter()
    try:
        made = work.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"it does not fit: {str(error).splitlines()[0]}")
        return False
    seconds = time.perf_counter() - begun
    if folder:
        _save(made, folder)
    taken = report.taken(work, made, devices.chip)
    say(report.memory_table(taken, results=work.results))
    say(report.floor_table(work, made, devices.chip))
    say(report.parts_line(made, seconds=seconds))
    return taken.fits


def _save(made: Made, folder: Path) -> None:
    """Leave the text of every distinct part."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, compiled, _) in enumerate(made.parts):
        write_text(folder / f"{number:02}_{name}.txt", compiled.as_text() or "")


def _suggest(config: Any, question: Question, save: str) -> bool:
    """Compile what fits by counting, the best first, until something fits by its compiler."""
    for candidate, size in itertools.islice(_fitting(config, question), TRIES):
        changed = " ".join(suggestions.changes(candidate, config)) or "as it is"
        say(f"{changed}: about {size / GIB:.2f} GiB by counting; compiling it")
        if _tell(candidate, question, save):
            say(f"\n{_command(candidate, question)}")
            return True
        say("")
    say(_more_devices(config, question))
    return False


def _fitting(config: Any, question: Question) -> Iterator[tuple[Any, int]]:
    return suggestions.fitting(config, question.model, question.devices, question.asked)


def _command(config: Any, question: Question) -> str:
    return suggestions.command(config, question.file, question.devices)


def _advice(config: Any, question: Question) -> str:
    """What else would fit, by counting, in one line."""
    others = (found for found in _fitting(config, question) if found[0] != config)
    candidate, size = next(others, (None, 0))
    if candidate is None:
        return _more_devices(config, question)
    line = _command(candidate, question)
    return f"by counting this fits, with about {size / GIB:.2f} GiB (--suggest compiles it): {line}"


def _more_devices(config: Any, question: Question) -> str:
    """Which devices would do, by counting, in one line."""
    kind = question.on.partition(":")[0]
    more = suggestions.enough(config, question.model, question.devices, question.asked, kind=kind)
    would = f"by counting, {more} would do" if more else f"nor does any larger {kind} listed here"
    return f"no settings that were tried fit {question.on}; {would}"
