"""What a workload takes of a device, as tables."""

from collections.abc import Iterator
from typing import NamedTuple

from experiments.fit.workload import Made, Workload
from experiments.tables import columns
from ilo_jax import emitted
from ilo_jax.chips import GIB, Chip
from ilo_jax.sharding import device_bytes

SHOWN = 2**20
"""Bytes that have a row of their own in the table of memory."""


class Taken(NamedTuple):
    """Bytes that a workload takes of a device's memory, by what they are for."""

    parts: dict[str, int]
    usable: float
    """Bytes that are there for it."""

    @property
    def total(self) -> int:
        """What has to fit the device at once."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.total <= self.usable


def taken(work: Workload, made: Made, chip: Chip) -> Taken:
    """The memory that a compiled workload takes of a device."""
    memory, before = made.memory, held(work, chip)
    written = memory.outputs - memory.aliased + (work.results - 1) * memory.outputs
    found = {
        "padding": memory.arguments - before.total,
        "temporaries": memory.temporaries,
        "outputs": written,
        "code": memory.code,
    }
    return before._replace(parts=before.parts | found)


def held(work: Workload, chip: Chip) -> Taken:
    """The memory that what a workload is computed from takes of a device."""
    return Taken({name: device_bytes(arrays) for name, arrays in work.held.items()}, chip.usable)


def memory_table(found: Taken, *, results: int = 1) -> str:
    """Memory by what it is for, its sum, and whether that fits.

    Args:
        found: By `taken`.
        results: How many are there at a time.
    """
    names = {"temporaries": "temporaries at the worst moment"}
    names |= {"outputs": f"outputs of up to {results} at a time"} if results > 1 else {}
    shown = {name: size for name, size in found.parts.items() if size >= SHOWN}
    lines = [(names.get(name, name), f"{size / GIB:.3f}") for name, size in shown.items()]
    verdict = "it fits" if found.fits else "it does not fit"
    lines = [("on each device", "GiB"), *lines, ("sum", f"{found.total / GIB:.3f}")]
    return (
        f"{columns(lines)}\n{found.total / found.usable:.0%} of the {found.usable / GIB:.2f} GiB "
        f"that a program may take: {verdict}"
    )


def floor_table(work: Workload, made: Made, chip: Chip) -> str:
    """What a run takes at least of a device's units, memory and links, by their published peaks."""
    lines = [("at least, by published peaks", "a device", "peak", "ms")]
    return columns([*lines, *_floors(work, made, chip)])


def _floors(work: Workload, made: Made, chip: Chip) -> Iterator[tuple[str, str, str, str]]:
    peak = chip.bfloat16 if work.dtype == "bfloat16" else chip.float32
    rate = f"{peak / 1e12:.4g} TFLOP/s ({work.dtype})"
    operations = f"{work.operations / 1e12:.4g} TFLOP"
    yield "operations", operations, rate, _milliseconds(work.operations / peak)
    name, arrays = next(iter(work.held.items()))
    yield _moved(f"{name} read once", device_bytes(arrays), chip.bandwidth)
    for kind, sent in emitted.traffic(exchanged(made)).items():
        more = f" and {sent.uncounted} that nobody counted" if sent.uncounted else ""
        yield _moved(f"sent by {sent.operations} {kind}{more}", sent.bytes, chip.interconnect)


def _moved(what: str, size: float, rate: float) -> tuple[str, str, str, str]:
    return what, f"{size / GIB:.3f} GiB", f"{rate / 1e9:.4g} GB/s", _milliseconds(size / rate)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f}"


def exchanged(made: Made) -> list[emitted.Collective]:
    """The collectives of all parts, with how often they run in all calls of them."""
    return [
        one._replace(times=one.times and one.times * often)
        for _, compiled, often in made.parts
        for one in emitted.collectives(emitted.program(compiled))
    ]


def parts_line(made: Made, *, seconds: float) -> str:
    """How much was compiled, and how long that took."""
    calls = sum(often for _, _, often in made.parts)
    return f"compiled in {seconds:.1f} s: {len(made.parts)} distinct parts of {calls}"
