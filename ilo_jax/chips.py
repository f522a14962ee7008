"""What a chip holds and does at best, by what its maker publishes: one table."""

from typing import NamedTuple

GIB = 2**30
PASSES = 6
"""Products of bfloat16 that a TPU makes of one of float32 at `jax.lax.Precision.HIGHEST`."""
SHARE = 3 / 4
"""Of a GPU's memory, which JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""
CLOUD = "https://docs.cloud.google.com/tpu/docs"
NVIDIA = "https://www.nvidia.com/en-us/data-center"


class Chip(NamedTuple):
    """What one chip can do at best; no program reaches all of it.

    A device of JAX is a chip here, on TPU v4 and v5p both its cores together.
    """

    kinds: tuple[str, ...]
    """How the names begin that JAX gives to such a device."""
    memory: float
    """Bytes, as published; TPUs' makers write GB for GiB, a GPU's driver says its bytes."""
    usable: float
    """Bytes that are left to a program and its arrays. On TPUs the limit by which the compiler
    refuses a program (libtpu 0.0.42), on GPUs JAX's `SHARE`."""
    bfloat16: float
    """Operations per second of dense matrix products; a multiplication and an addition are two."""
    float32: float
    """Operations per second of matrix products that are exact to float32. NVIDIA publishes it. For
    TPUs it is derived, not published: their matrix units multiply bfloat16, and at
    `jax.lax.Precision.HIGHEST` one product is `PASSES` of those."""
    bandwidth: float
    """Bytes per second between the chip and its memory."""
    interconnect: float
    """Bytes per second that a chip can send to others, over all its links, in one direction: half
    of what is published for both."""
    source: str
    """Where all of it is published."""


CHIPS = {
    "v4": Chip(
        kinds=("TPU v4",),
        memory=32 * GIB,
        usable=30.75 * GIB,
        bfloat16=275e12,
        float32=275e12 / PASSES,
        bandwidth=1200e9,
        interconnect=6 * 50e9,  # links, of which only the paper tells
        source=f"{CLOUD}/v4; arXiv 2304.01433, table 4",
    ),
    "v5e": Chip(
        kinds=("TPU v5 lite", "TPU v5e"),
        memory=16 * GIB,
        usable=15.75 * GIB,
        bfloat16=197e12,
        float32=197e12 / PASSES,
        bandwidth=819e9,
        interconnect=400e9 / 2,
        source=f"{CLOUD}/v5e",
    ),
    "v5p": Chip(
        kinds=("TPU v5", "TPU v5p"),
        memory=95 * GIB,
        usable=95.74 * GIB,  # more than is published, by the compiler
        bfloat16=459e12,
        float32=459e12 / PASSES,
        bandwidth=2765e9,
        interconnect=1200e9 / 2,
        source=f"{CLOUD}/v5p",
    ),
    "v6e": Chip(
        kinds=("TPU v6 lite", "TPU v6e"),
        memory=32 * GIB,
        usable=31.25 * GIB,
        bfloat16=918e12,
        float32=918e12 / PASSES,
        bandwidth=1638e9,
        interconnect=800e9 / 2,
        source=f"{CLOUD}/v6e",
    ),
    "a100": Chip(
        kinds=("NVIDIA A100",),
        memory=85_100_068_864,
        usable=SHARE * 85_100_068_864,
        bfloat16=312e12,
        float32=19.5e12,
        bandwidth=2039e9,
        interconnect=600e9 / 2,
        source=f"{NVIDIA}/a100: 80 GB SXM",
    ),
    "h100": Chip(
        kinds=("NVIDIA H100",),
        memory=84_942_979_072,
        usable=SHARE * 84_942_979_072,
        bfloat16=989e12,  # published with sparsity, 1979
        float32=67e12,
        bandwidth=3.35e12,
        interconnect=900e9 / 2,
        source=f"{NVIDIA}/h100: SXM",
    ),
    "h200": Chip(
        kinds=("NVIDIA H200",),
        memory=151_397_597_184,
        usable=SHARE * 151_397_597_184,
        bfloat16=989e12,  # published with sparsity, 1979
        float32=67e12,
        bandwidth=4.8e12,
        interconnect=900e9 / 2,
        source=f"{NVIDIA}/h200: SXM",
    ),
}
"""By the names that `ilo_jax.topologies` takes."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip whose name is the longest beginning of a device's, None if none is.

    Args:
        device_kind: As `jax.Device.device_kind` has it, such as "NVIDIA H100 80GB HBM3".
    """
    fitting = [
        (len(kind), chip)
        for chip in CHIPS.values()
        for kind in chip.kinds
        if device_kind.startswith(kind)
    ]
    return max(fitting, default=(0, None))[1]
