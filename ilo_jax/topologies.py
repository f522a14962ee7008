"""Devices that are not there: compilers take them for real, and a program can be read for them."""

import importlib.util
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from ilo_jax.chips import CHIPS, Chip
from ilo_jax.gpu_targets import GPUS, target_config

FLAT = {"v5e", "v6e"}
"""TPUs whose slices have two axes."""
RECTANGLES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
"""Slices of fewer than 64 chips of the other TPUs; larger ones are of cubes of 4x4x4."""
FIRST = ("4x4x4", "4x4x8", "4x8x8", "8x8x8")
"""The first of those."""
LARGEST = {"v4": 4096, "v5p": 6144}
"""Chips of a slice of cubes."""
HOSTS = ("1", "2", "4", "8")
"""GPUs of one host that NVLink joins."""
ALONE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or one process of a machine locks out all others
    "LIBTPU_INIT_ARGS": "--install_signal_handlers=false",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of this machine; it complains of one that has none
    "TPU_LOG_DIR": "disabled",  # or it writes into a folder that all users share
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""What libtpu is told where there is no TPU."""


class Topology(NamedTuple):
    """Devices of one kind, joined as they are where one rents them."""

    chip: Chip
    devices: list[Any]
    """Of `jax.Device`; nothing runs on them, but programs can be lowered and compiled for them."""


def topology(name: str) -> Topology:
    """Describe devices that need not be there.

    Programs compiled for them tell of the memory that they take and of how the devices
    communicate. TPUs need libtpu, which makes the process ignore SIGHUP; GPUs JAX's CUDA plugin.

    Args:
        name: CHIP:SHAPE. Of TPUs, a slice as Cloud TPU has it, such as v5e:4x4 or v5p:2x2x2; of
            GPUs, how many there are in one host, such as h100:8.

    Raises:
        ValueError: If there is no such chip, or it does not come in this shape.
        ImportError: If the compiler for it is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(
            "a topology is CHIP:SHAPE, such as v5e:4x4 or h100:8, with one of the chips "
            f"{', '.join(CHIPS)}; got {name!r}"
        )
    _check_shape(kind, shape)
    devices = _gpus(kind, shape) if kind in GPUS else _tpus(kind, shape)
    return Topology(CHIPS[kind], devices)


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compile a program that is lowered for devices that are not there.

    It goes past JAX's persistent cache, which would keep the program and could not load it again.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        return lowered.compile()
    finally:
        jax.config.update(name, before)


def is_absent(mesh: Mesh) -> bool:
    """Whether the devices of a mesh are not there: programs for them must go through `compiled`."""
    return "CompileOnly" in type(mesh.devices.flat[0].client).__name__


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it libtpu, where it is loaded without a TPU, leaves process and machine as they are.

    JAX loads it when it looks for devices, and so does `topology`. Otherwise it would write to
    stderr, take SIGTERM over, and let one process of a machine lock out the others. Where there is
    a TPU, which JAX says by TPU_SKIP_MDS_QUERY, and in what the user has set, nothing changes.
    """
    ours = set(ALONE) - set(os.environ) if os.environ.get("TPU_SKIP_MDS_QUERY") == "1" else set()
    os.environ.update({name: ALONE[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def shapes(kind: str) -> tuple[str, ...]:
    """The shapes that a chip comes in, smallest first; of those of cubes the first."""
    if kind in GPUS:
        return HOSTS
    return RECTANGLES if kind in FLAT else (*CUBES, *FIRST)


def _check_shape(kind: str, shape: str) -> None:
    listed = CUBES if kind in LARGEST else shapes(kind)
    words = ", ".join(listed)
    if kind in LARGEST:
        words += f", or AxBxC, A <= B <= C, of multiples of 4, up to {LARGEST[kind]} chips"
    if shape not in listed and not (kind in LARGEST and _is_of_cubes(shape, LARGEST[kind])):
        raise ValueError(f"{kind} comes as {words}; got {kind}:{shape}")


def _is_of_cubes(shape: str, largest: int) -> bool:
    if not re.fullmatch(r"\d+x\d+x\d+", shape):
        return False
    sizes = [int(size) for size in shape.split("x")]
    multiples = all(size and size % 4 == 0 for size in sizes)
    return multiples and sizes == sorted(sizes) and math.prod(sizes) <= largest


def _tpus(kind: str, shape: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            f"compiling for {kind}:{shape} needs libtpu, on Linux x86-64: pip install -e '.[tpu]'"
        )
    wide, long = (int(size) for size in shape.split("x")[:2])
    cores = {"chip_config_name": "megacore"} if kind == "v4" else {}  # else a device is half a chip
    with undisturbed():
        return topologies.get_topology_desc(
            f"{kind}:{shape}", "tpu", chips_per_host_bounds=[min(wide, 2), min(long, 2), 1], **cores
        ).devices


def _gpus(kind: str, count: str) -> list[Any]:
    try:
        return topologies.get_topology_desc(
            f"{kind}:{count}", "cuda", topology=f"1x1x{count}", target_config=target_config(kind)
        ).devices
    except NotImplementedError as error:
        raise ImportError(
            f"compiling for {kind}:{count} needs JAX's CUDA plugin: pip install -e '.[cuda]', and "
            "JAX_PLATFORMS=cpu in the environment where there is no GPU"
        ) from error
