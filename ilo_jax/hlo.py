"""What a compiled program does, and how often, read from the text that XLA prints of it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

COMPUTATION = re.compile(r"(ENTRY )?%([\w.-]+) \(.*\{")
INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.-]+) = (.+?) ([a-z][\w-]*)\(([^)]*)(.*)")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
COPIES = {"bitcast", "convert", "copy"}
"""What leaves a whole number as it is."""


class Array(NamedTuple):
    """Of one device."""

    dtype: str
    """As XLA writes it, such as bf16."""
    shape: tuple[int, ...]

    @property
    def bytes(self) -> float:
        """Of its entries, without what pads them."""
        bits = 8 if self.dtype == "pred" else int(re.findall(r"\d+", self.dtype)[0])
        size = bits / 8
        for length in self.shape:
            size *= length
        return size


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    result: str
    """Its type: an array, or arrays in parentheses."""
    opcode: str
    arguments: str
    """What it is applied to, or the value of a constant."""
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return re.findall(r"%([\w.-]+)", self.arguments)

    @property
    def arrays(self) -> list[Array]:
        """What it gives."""
        return [
            Array(dtype, tuple(map(int, lengths.split(","))) if lengths else ())
            for dtype, lengths in ARRAY.findall(self.result)
        ]

    def attribute(self, name: str) -> str:
        """The value of an attribute that is one word, "" where it has none."""
        match = re.search(rf"\b{name}=%?([\w.-]+)", self.attributes)
        return match[1] if match else ""


class Computation(NamedTuple):
    """Instructions by their names."""

    instructions: dict[str, Instruction]
    root: str
    """The instruction whose result is the computation's."""

    def origin(self, name: str) -> Instruction:
        """The instruction that gives a value, and not its copy."""
        line = self.instructions[name]
        return self.origin(line.operands[0]) if line.opcode in COPIES else line

    def integer(self, name: str) -> int | None:
        """The value of a constant, None if it is none."""
        line = self.origin(name)
        constant = line.opcode == "constant" and re.fullmatch(r"-?\d+", line.arguments)
        return int(line.arguments) if constant else None

    def carried(self, name: str) -> str:
        """The index of a value among those that a loop hands on, "" if it is none of them."""
        line = self.origin(name)
        if line.opcode != "get-tuple-element":
            return ""
        handed = self.instructions[line.operands[0]].opcode == "parameter"
        return line.attribute("index") if handed else ""


class Program(NamedTuple):
    """Computations by their names; the entry calls the others."""

    computations: dict[str, Computation]
    entry: str
    devices: int

    def executed(self) -> Iterator[tuple[Computation, Instruction, int | None]]:
        """All instructions of a call of the program, each with its computation and its times.

        Computations that reduce, sort or scatter by them are left out. Instructions of a
        computation that is called in several places come with each. Times are None in loops
        whose number of rounds the text does not say, and in branches.
        """
        yield from self._executed(self.entry, 1)

    def _executed(
        self, name: str, times: int | None
    ) -> Iterator[tuple[Computation, Instruction, int | None]]:
        computation = self.computations[name]
        for line in computation.instructions.values():
            yield computation, line, times
            for callee, rounds in self._calls(computation, line):
                yield from self._executed(
                    callee, None if rounds is None or times is None else rounds * times
                )

    def _calls(self, caller: Computation, line: Instruction) -> list[tuple[str, int | None]]:
        if line.opcode == "while":
            rounds = self._rounds(caller, line)
            checks = None if rounds is None else rounds + 1
            return [(line.attribute("body"), rounds), (line.attribute("condition"), checks)]
        if line.opcode == "conditional":
            return [(name, None) for name in _branches(line)]
        if line.opcode in {"async-update", "async-done"}:  # their start has called it
            return []
        called = line.attribute("to_apply" if line.opcode == "call" else "calls")
        return [(called, 1)] if called else []

    def _rounds(self, caller: Computation, loop: Instruction) -> int | None:
        """How often the body of a loop runs: as XLA says, or by its counter and its limit."""
        said = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if said:
            return int(said[1])
        condition = self.computations[loop.attribute("condition")]
        test = condition.instructions[condition.root]
        if test.opcode != "compare" or test.attribute("direction") != "LT":
            return None
        counter, limit = test.operands
        index, stop = condition.carried(counter), condition.integer(limit)
        start = _first(caller, loop, index)
        step = _step(self.computations[loop.attribute("body")], index)
        if start is None or stop is None or not step:
            return None
        return max(0, -((start - stop) // step))


def _branches(line: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", line.attributes)
    if listed:
        return re.findall(r"%([\w.-]+)", listed[1])
    return [line.attribute("true_computation"), line.attribute("false_computation")]


def _first(caller: Computation, loop: Instruction, index: str) -> int | None:
    """What a loop's counter is before it."""
    values = caller.instructions[loop.operands[0]]
    if not index or values.opcode != "tuple":
        return None
    return caller.integer(values.operands[int(index)])


def _step(body: Computation, index: str) -> int | None:
    """What a round adds to a loop's counter."""
    values = body.instructions[body.root]
    if not index or values.opcode != "tuple":
        return None
    added = body.instructions[values.operands[int(index)]]
    if added.opcode != "add":
        return None
    counter, step = added.operands
    return body.integer(step) if body.carried(counter) == index else None


def read_program(text: str) -> Program:
    """Read the text of a compiled program.

    Args:
        text: As `jax.stages.Compiled.as_text` gives it, on TPU, GPU or CPU.

    Raises:
        ValueError: If it is not the text of one.
    """
    computations, entry, name = {}, "", ""
    lines, root = {}, ""
    for row in text.splitlines():
        if head := COMPUTATION.match(row):
            name, lines, root = head[2], {}, ""
            entry = name if head[1] else entry
        elif line := INSTRUCTION.match(row):
            lines[line[2]] = Instruction(*line.groups()[1:])
            root = line[2] if line[1] else root
        elif row == "}":
            computations[name] = Computation(lines, root)
    if entry not in computations:
        raise ValueError(f"the text of a compiled program has an ENTRY; got {text[:80]!r}")
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0])
    return Program(computations, entry, max(map(int, counts), default=1))
