"""The segments of a traced function, compiled in order, and each distinct one once."""

import threading
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.sharding import Mesh, Sharding

from ilo_jax.compiling.parts import Segment, segments, variables
from ilo_jax.sharding import replicated
from ilo_jax.topologies import compiled, is_absent

LOWERING = threading.Lock()


class Call(NamedTuple):
    """A call of a compiled segment."""

    name: str
    compiled: jax.stages.Compiled
    takes: tuple[core.Var, ...]
    gives: tuple[core.Var, ...]
    done: tuple[core.Var, ...]
    """What it takes, and nobody needs any more."""


def shape_of(variable: core.Var | core.Literal) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a value."""
    aval: Any = variable.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


class Compiler:
    """Compiles the segments of a function in order; what one gives lies where the next takes it."""

    def __init__(
        self,
        jaxpr: core.Jaxpr,
        consts: Mapping[core.Var, Any],
        lies: Sequence[Sharding],
        kept: frozenset[core.Var],
        out_shardings: Sequence[Sharding | None],
        mesh: Mesh,
    ):
        self.whole = replicated(mesh)
        self.absent = is_absent(mesh)
        self.jaxpr, self.consts, self.segments = jaxpr, consts, segments(jaxpr)
        self.seen: dict[int, list[Sharding]] = {}
        self.lies: dict[core.Var, Sharding] = {}
        self._lie(jaxpr.invars, lies)
        asked = zip(jaxpr.outvars, out_shardings, strict=True)
        self.asked = {v: sharding for v, sharding in asked if not isinstance(v, core.Literal)}
        self.stay = kept.union(variables(jaxpr.outvars), consts)
        self.last = {v: n for n, s in enumerate(self.segments) for v in (*s.gives, *s.takes)}
        self.compiled: dict[Hashable, jax.stages.Compiled] = {}

    def call(self, number: int) -> Call:
        """The call of a segment, compiled if none like it was."""
        segment = self.segments[number]
        takes = [v for v in segment.takes if v not in self.consts]
        done = [v for v in takes if self.last[v] == number and v not in self.stay]
        donated = _donated(takes, done, segment.gives)
        # What takes nothing would else be computed on the first of all devices.
        anyhow = None if takes else self.whole
        lie = [self.lies[v] for v in takes], [self.asked.get(v) or anyhow for v in segment.gives]
        key = _key(segment, self.consts), *map(tuple, lie), donated
        if key not in self.compiled:
            self.compiled[key] = self._compile(segment, takes, *lie, donated)
        made = self.compiled[key]
        self._lie(segment.gives, made.output_shardings)
        return Call(segment.name, made, (*takes,), (*segment.gives,), (*done,))

    def _lie(self, values: Sequence[core.Var], shardings: Sequence[Sharding]) -> None:
        """Note where values lie: equivalent shardings as one, so that equal calls are equal."""
        for value, sharding in zip(values, shardings, strict=True):
            dims = shape_of(value).ndim
            seen = self.seen.setdefault(dims, [])
            like = (other for other in seen if sharding.is_equivalent_to(other, dims))
            self.lies[value] = same = next(like, sharding)
            if same is sharding:
                seen.append(sharding)

    def _compile(
        self,
        segment: Segment,
        takes: Sequence[core.Var],
        lie: Sequence[Sharding],
        asked: Sequence[Sharding | None],
        donated: tuple[int, ...],
    ) -> jax.stages.Compiled:
        fixed = {v: self.consts[v] for v in segment.takes if v in self.consts}
        inner = self.jaxpr.replace(
            constvars=[],
            invars=[*takes, *fixed],
            outvars=segment.gives,
            eqns=segment.equations,
            debug_info=self.jaxpr.debug_info.with_unknown_names(),
        )
        evaluate = core.jaxpr_as_fun(core.ClosedJaxpr(inner, []))

        def run(*values: Any) -> list[Any]:
            return evaluate(*values, *fixed.values())

        run.__name__ = segment.name
        shapes = [
            shape_of(v).update(sharding=sharding) for v, sharding in zip(takes, lie, strict=True)
        ]
        jitted = jax.jit(run, donate_argnums=donated, out_shardings=[*asked])
        # Filters are the whole process', and other threads may compile, too.
        with LOWERING, warnings.catch_warnings():
            # Where a result comes to lie otherwise, it needs a place of its own.
            warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
            lowered = jitted.lower(*shapes)
        return compiled(lowered) if self.absent else lowered.compile()


def _donated(
    takes: Sequence[core.Var], done: Sequence[core.Var], gives: Sequence[core.Var]
) -> tuple[int, ...]:
    """Which of the values taken can make room for one that is given."""
    room = Counter(map(shape_of, gives))
    donated = []
    for number, variable in enumerate(takes):
        if variable in done and room[shape_of(variable)]:
            room[shape_of(variable)] -= 1
            donated.append(number)
    return tuple(donated)


def _key(segment: Segment, consts: Mapping[core.Var, Any]) -> Hashable:
    """What a segment has in common with its equals: what it does, with what, for what.

    What is called is told by the very function that JAX has traced, and so equal only if JAX traced
    it once.
    """
    places: dict[Any, Any] = {v: (number, v.aval) for number, v in enumerate(segment.takes)}
    places |= {v: _value(consts[v]) for v in segment.takes if v in consts}
    steps = []
    for number, equation in enumerate(segment.equations):
        given = [
            (v.aval, _value(v.val)) if isinstance(v, core.Literal) else places[v]
            for v in equation.invars
        ]
        how = {name: _hashable(value) for name, value in equation.params.items()}
        steps.append((equation.primitive, frozenset(how.items()), *given, equation.ctx))
        places |= {v: ("made", number, place) for place, v in enumerate(equation.outvars)}
    return (*steps,), tuple(places[v] for v in segment.gives)


def _value(value: Any) -> Hashable:
    """What tells a literal or a constant from others: its bits, or, on devices, which it is."""
    if isinstance(value, jax.Array):
        return "array", id(value)
    array = np.asarray(value)
    return "value", array.dtype, array.shape, array.tobytes()


def _hashable(value: Any) -> Hashable:
    """What tells a parameter from others: what it is, or where it lies."""
    if isinstance(value, float):
        return _value(value)  # 0.0 and -0.0 are equal
    try:
        hash(value)
    except TypeError:
        return "unhashable", id(value)
    return value
