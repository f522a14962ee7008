"""What a compiler has made of a program: the memory that it takes and what its devices exchange."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import jax

from ilo_jax.chips import Chip
from ilo_jax.hlo import Array, Instruction, Program, read_program

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


class Memory(NamedTuple):
    """Bytes that a program takes of a device's memory, by its compiler."""

    arguments: int
    outputs: int
    aliased: int
    """Of the outputs, which are written over donated arguments."""
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """What has to fit the device at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def memory(compiled: jax.stages.Compiled) -> Memory:
    """The memory that a compiled program takes on each device.

    Raises:
        NotImplementedError: If its compiler does not say.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        raise NotImplementedError("the compiler of this platform says nothing of memory")
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def program(compiled: jax.stages.Compiled) -> Program:
    """What a compiled program does, as its compiler prints it.

    Raises:
        NotImplementedError: If its compiler prints nothing.
        ValueError: If what it prints is not understood.
    """
    text = compiled.as_text()
    if text is None:
        raise NotImplementedError("the compiler of this platform does not print its programs")
    return read_program(text)


class Collective(NamedTuple):
    """One instruction by which devices exchange what they have."""

    kind: str
    """One of `KINDS`."""
    arrays: tuple[Array, ...]
    """What a device puts in: of an all-gather its own part, of a reduce-scatter the whole."""
    group: int
    """How many devices exchange with each other; of a permute, how many send."""
    times: int | None
    """How often it runs in a call of the program; None: the text does not say."""

    @property
    def bytes(self) -> float:
        """What a device puts in at each run."""
        return sum(array.bytes for array in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that a device has to send at each run, at least: what a ring sends.

        With B bytes put in and groups of n: 2 B (n - 1) / n for an all-reduce, B (n - 1) / n for
        a reduce-scatter and an all-to-all, B (n - 1) for an all-gather (whose whole is n B), and B
        for a permute (Chan et al., Collective communication: theory, practice, and experience,
        2007, section 5). Switches that add or copy by themselves, as NVLink SHARP, need less.
        """
        others = self.group - 1
        factor = {
            "all-gather": others,
            "all-reduce": 2 * others / self.group,
            "all-to-all": others / self.group,
            "collective-permute": 1,
            "reduce-scatter": others / self.group,
        }
        return self.bytes * factor[self.kind]


def collectives(program: Program) -> list[Collective]:
    """The collectives of a compiled program, in the order in which it comes to them.

    What starts in one instruction and is done in another counts once. So do the pieces of one that
    a TPU's compiler spreads over the products beside it.

    Raises:
        ValueError: If the groups of one cannot be read.
    """
    chains, exchanged = set(), []
    for computation, line, times in program.executed():
        kind = line.opcode.removesuffix("-start")
        chain = line.attribute("channel_id") if "chain_id=" in line.attributes else ""
        if kind not in KINDS or chain in chains:
            continue
        chains |= {chain} - {""}
        operands = (computation.instructions[name] for name in line.operands)
        arrays = tuple(array for operand in operands for array in operand.arrays)
        exchanged.append(Collective(kind, arrays, _group(program, line), times))
    return exchanged


def _group(program: Program, line: Instruction) -> int:
    """How many devices exchange with each other, in any of the ways to write groups."""
    written = line.attributes.partition("replica_groups=")[2]
    if line.opcode.startswith("collective-permute"):
        pairs = line.attributes.partition("source_target_pairs=")[2].partition("}}")[0]
        return pairs.count("{") - 1
    if written.startswith("{}"):
        return program.devices
    if listed := re.match(r"\{\{([\d,]+)\}", written):
        return listed[1].count(",") + 1
    if counted := re.match(r"\[\d+,(\d+)\]<=", written):
        return int(counted[1])
    if named := re.match(r"@?mesh\[([^\]]*)\][^{]*\{([^}]*)\}", written):
        sizes = dict(re.findall(r"'([\w]+)'=(\d+)", named[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    raise ValueError(f"cannot read the groups of {line.name}: {written[:80]!r}")


class Traffic(NamedTuple):
    """What instructions of one kind come to in one call of a program, on each device."""

    operations: int
    bytes: float
    uncounted: int
    """Instructions in loops and branches whose runs the text does not say: operations and bytes
    are without them."""


def traffic(exchanged: Iterable[Collective]) -> dict[str, Traffic]:
    """Collectives by their kind, with the bytes that a device has to send for them at least."""
    sums = {}
    for one in exchanged:
        _add(sums, one.kind, one.sent, one.times)
    return sums


def _add(sums: dict[str, Traffic], kind: str, size: float, times: int | None) -> None:
    before = sums.get(kind, Traffic(0, 0, 0))
    known = times or 0
    sums[kind] = Traffic(
        before.operations + known,
        before.bytes + known * size,
        before.uncounted + (times is None),
    )


def floor_seconds(exchanged: Iterable[Collective], chip: Chip) -> float:
    """The time below which the devices cannot exchange what a call of a program exchanges.

    It is a floor, not a forecast: what a device has to send at least, over all its links at once.
    """
    return sum(kind.bytes for kind in traffic(exchanged).values()) / chip.interconnect


def operations(program: Program, *opcodes: str) -> dict[str, Traffic]:
    """Instructions of a compiled program by their opcode, with the bytes of their results.

    Within a fusion a result is not written to memory, but counts here.

    Args:
        program: As `program` or `ilo_jax.hlo.read_program` gives it.
        *opcodes: Such as "copy", "convert", "gather", "sort".
    """
    sums = {}
    for _, line, times in program.executed():
        if line.opcode in opcodes:
            _add(sums, line.opcode, sum(array.bytes for array in line.arrays), times)
    return sums
