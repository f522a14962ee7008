"""Settings under which a job fits devices: counted first, and then compiled."""

import dataclasses
import itertools
import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from experiments.command_line import read_config
from experiments.finetune import Config as Finetuning
from experiments.fit.jobs import JOBS, workloads
from experiments.fit.workload import Asked
from experiments.generate import Config as Generation
from experiments.hardware import settled
from experiments.pretrain import Config as Pretraining
from experiments.settings import Extraction
from ilo_jax.activations.planning import rows_at_once
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from ilo_jax.topologies import Topology, shapes

LAST_RESORT = "bfloat16"
"""The dtype that is tried where the one that is asked for does not fit."""


def abstract_mesh(devices: int, *, model: int) -> AbstractMesh:
    """The mesh of as many devices, none of which is there."""
    sizes = devices // model, model
    return AbstractMesh(sizes, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def splits(devices: Sequence[Any]) -> list[int]:
    """How many devices to a copy of the model make a mesh of all of them."""

    def lays(model: int) -> bool:
        try:
            make_mesh(model=model, devices=devices)
        except ValueError:  # the way in which they are joined makes none
            return False
        return True

    return list(filter(lays, divisors(len(devices))))


def divisors(count: int) -> list[int]:
    """The whole numbers that divide another."""
    return [n for n in range(1, count + 1) if count % n == 0]


def candidates(config: Any, devices: int, asked: Asked, *, ways: Sequence[int]) -> list[Any]:
    """Configurations that differ in how a job is computed, the best first.

    The dtype is the one that is asked for, and bfloat16 only after all that; then the most rows at
    a time, no more than asked for, count, then the least `model_parallel`, then fewer weights that
    are gathered or activations that are computed again.

    Args:
        config: Of a job.
        devices: How many share the work.
        asked: What the configuration leaves to the text.
        ways: What `model_parallel` may be.
    """
    dtypes = list(dict.fromkeys([config.dtype, LAST_RESORT]))
    common = [
        dataclasses.replace(config, dtype=dtype, model_parallel=model, fsdp=fsdp)
        for dtype, model, fsdp in itertools.product(dtypes, ways, (False, True))
        # Nothing is split over one place.
        if not (fsdp and model == devices)
    ]
    if isinstance(config, Finetuning | Pretraining):
        return _of_training(common, config, devices, dtypes)
    if isinstance(config, Generation):
        return _of_generation(common, config, dtypes)
    return _of_extraction(common, config, devices, dtypes, asked)


def _of_extraction(
    common: Sequence[Any], config: Extraction, devices: int, dtypes: Sequence[str], asked: Asked
) -> list[Extraction]:
    most = rows_at_once(config.batch_tokens, row_length=asked.row_length)
    each = [most, *(2**n for n in range(most.bit_length()) if 2**n < most)]
    found = [
        dataclasses.replace(one, batch_tokens=rows * asked.row_length) if rows < most else one
        for one, rows in itertools.product(common, each)
    ]

    def worth(one: Extraction) -> tuple[Any, ...]:
        rows = rows_at_once(one.batch_tokens, row_length=asked.row_length)
        total = rows * devices // one.model_parallel
        return dtypes.index(one.dtype), -total, one.model_parallel, one.fsdp

    return sorted(found, key=worth)


def _of_training(
    common: Sequence[Any], config: Finetuning | Pretraining, devices: int, dtypes: Sequence[str]
) -> list[Any]:
    most = config.rows_at_once or config.rows
    each = [n for n in range(1, most + 1) if config.rows % n == 0]
    remats = (True,) if config.remat else (False, True)
    found = [
        dataclasses.replace(one, rows_at_once=config.rows_at_once if n == most else n, remat=remat)
        for one, n, remat in itertools.product(common, each, remats)
        if n % (devices // one.model_parallel) == 0
    ]

    def worth(one: Finetuning | Pretraining) -> tuple[Any, ...]:
        rows = one.rows_at_once or one.rows
        return dtypes.index(one.dtype), -rows, one.model_parallel, one.remat, one.fsdp

    return sorted(found, key=worth)


def _of_generation(
    common: Sequence[Any], config: Generation, dtypes: Sequence[str]
) -> list[Generation]:
    each = [config.rows, *(2**n for n in range(config.rows.bit_length()) if 2**n < config.rows)]
    found = [dataclasses.replace(one, rows=n) for one in common for n in each]

    def worth(one: Generation) -> tuple[Any, ...]:
        return dtypes.index(one.dtype), -one.rows, one.model_parallel, one.fsdp

    return sorted(found, key=worth)


def counted(config: Any, model: Transformer, devices: int, asked: Asked) -> int:
    """Bytes of a device that a job takes at most, roughly, without compiling anything."""
    mesh = abstract_mesh(devices, model=config.model_parallel)
    return max(work.counted for work in workloads(config, model, mesh, asked))


def fitting(
    config: Any, model: Transformer, devices: Topology, asked: Asked
) -> Iterator[tuple[Any, int]]:
    """Yield the candidates that fit devices by counting, the best first, with their bytes."""
    count = len(devices.devices)
    for candidate in candidates(config, count, asked, ways=splits(devices.devices)):
        size = counted(candidate, model, count, asked)
        if size <= devices.chip.usable:
            yield candidate, size


def enough(config: Any, model: Transformer, devices: Topology, asked: Asked, *, kind: str) -> str:
    """The smallest of larger slices that would do, by counting; "" if none of those listed would.

    Args:
        config: Of a job.
        model: Its model, abstract.
        devices: That are too few.
        asked: What the configuration leaves to the text.
        kind: Name of their chip.
    """
    for shape in shapes(kind):
        count = math.prod(map(int, shape.split("x")))
        if count > len(devices.devices):
            least = candidates(config, count, asked, ways=divisors(count))[-1]
            if counted(least, model, count, asked) <= devices.chip.usable:
                return f"{kind}:{shape}"
    return ""


def changes(config: Any, other: Any) -> list[str]:
    """The flags that make one configuration of another."""
    before = dataclasses.asdict(other)
    return [
        f"--config.{name}={shlex.quote(str(value))}"
        for name, value in dataclasses.asdict(config).items()
        if value != before[name]
    ]


def command(config: Any, file: str, devices: Topology) -> str:
    """The command line by which the job runs with a configuration.

    Args:
        config: Which.
        file: That it began with.
        devices: On which it runs.
    """
    hosts = {device.process_index for device in devices.devices}
    words = ["python -m", f"experiments.{JOBS[type(config)]}", f"--config={file}"]
    words += ["--distributed"] * (len(hosts) > 1)
    words += changes(config, settled(read_config(file), devices.devices))
    return " ".join(words)
