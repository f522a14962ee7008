"""The devices that a job has: how it shares them out, and what they can do at best."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from experiments.settings import Batched, Compute
from ilo_jax import sharding
from ilo_jax.chips import chip_of

T = TypeVar("T")

BATCH_TOKENS = {"cpu": 512}
"""Positions computed at a time on each device, by its platform. A CPU's are few: a process keeps
the memory that a block needs of them, but of many takes it from the system anew for every block."""
MANY = 4096
"""The same on other platforms, whose devices would be idle with few."""


def make_mesh(compute: Compute, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over devices, with `model_parallel` of them to a copy of the model.

    Args:
        compute: Of a configuration.
        devices: Such as those of `ilo_jax.topologies`; None: all that there are.

    Raises:
        ValueError: If that does not divide their number, or the way in which they are joined does
            not make such a mesh.
    """
    devices = jax.devices() if devices is None else devices
    count, asked = len(devices), compute.model_parallel
    fitting = [n for n in range(1, count + 1) if count % n == 0]
    if asked not in fitting:
        raise ValueError(
            f"model_parallel must divide the number of devices, {count}, or some would be idle: "
            f"one of {', '.join(map(str, fitting))}; got {asked}"
        )
    return sharding.make_mesh(model=asked, devices=devices)


def settled(config: T, devices: Sequence[Any] | None = None) -> T:
    """A configuration in which what it leaves to the devices is said: `batch_tokens`, if 0.

    Args:
        config: Of a job; one that is computed in no batches is given back as it is.
        devices: That compute; None: all that there are.
    """
    if not isinstance(config, Batched) or config.batch_tokens:
        return config
    device, *_ = jax.devices() if devices is None else devices
    return dataclasses.replace(config, batch_tokens=BATCH_TOKENS.get(device.platform, MANY))


def peak_flops() -> float | None:
    """The bfloat16 operations per second of all devices, None where it is not known."""
    chip = chip_of(jax.devices()[0].device_kind)
    return chip and chip.bfloat16 * jax.device_count()
