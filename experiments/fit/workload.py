"""What a job computes again and again, with shapes in place of all arrays."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from ilo_jax.compiling.program import ByParts
from ilo_jax.emitted import Memory, memory
from ilo_jax.sharding import device_bytes
from ilo_jax.topologies import compiled


class Asked(NamedTuple):
    """What a configuration leaves to the text, which need not be there."""

    row_length: int
    """Tokens of a row of sentences."""
    segments: int
    """Sentences of such a row, at most."""
    points: tuple[int, int] | None = None
    """Languages, and sentences of each; None: as the configuration says."""


class Made(NamedTuple):
    """What a compiler has made of a workload."""

    memory: Memory
    parts: list[tuple[str, jax.stages.Compiled, int]]
    """Each distinct part: its name, and how often it is called."""


class Workload(NamedTuple):
    """What a job computes again and again, for a mesh whose devices need not be there."""

    title: str
    """What, and on how much."""
    held: Mapping[str, PyTree]
    """What it is computed from, by name: shapes with shardings in place of arrays."""
    beside: int
    """Bytes that a device holds of activations and results, roughly: counted, not compiled."""
    operations: float
    """Of its matrix products, on each device."""
    dtype: str
    """In which these are computed."""
    results: int
    """How many results there are at a time, at most."""
    compile: Callable[[], Made]
    """Compiles it for the devices of the mesh, which must then be one of devices."""

    @property
    def counted(self) -> int:
        """Bytes of a device that it takes, roughly: what it is computed from is exact."""
        return device_bytes(self.held) + self.beside


def made_by_parts(function: ByParts, *args: Any) -> Made:
    """A function compiled by parts, for shapes with shardings."""
    program = function.compiled(*args)
    parts = [(call.name, call.compiled, often) for call, often in program.distinct]
    return Made(program.memory, parts)


def made_whole(lowered: jax.stages.Lowered, *, name: str) -> Made:
    """A program compiled as one part of some name."""
    whole = compiled(lowered)
    return Made(memory(whole), [(name, whole, 1)])
