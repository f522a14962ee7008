"""Where a traced function is cut: at the calls of what is marked as a part."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, NamedTuple

import jax
from jax.extend import core

MARK = "part_"
"""What the names of parts begin with where JAX shows them."""


def part(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as one that `program.by_parts` compiles by itself, once for equal calls.

    Elsewhere it is the function under `jax.jit`.

    Args:
        static: Names of its arguments that are no arrays: calls that differ in one are different
            parts.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def marked(*args: Any, **named: Any) -> Any:
            return function(*args, **named)

        marked.__name__ = f"{MARK}{function.__name__}"
        return jax.jit(marked, static_argnames=static)

    return mark


class Segment(NamedTuple):
    """What is compiled at a time: one call of a part, or what lies between two of them."""

    name: str
    equations: list[core.JaxprEqn]
    takes: list[core.Var]
    gives: list[core.Var]
    """What others take of it, or the whole function gives."""

    @property
    def call(self) -> core.JaxprEqn | None:
        """The call of a part that it is, if it is one."""
        return self.equations[0] if is_part(self.equations[0]) else None


def is_part(equation: core.JaxprEqn) -> bool:
    """Whether it is a call of a part."""
    name = equation.params.get("name", "") if "jaxpr" in equation.params else ""
    return str(name).startswith(MARK)


def variables(atoms: Iterable[Any]) -> Iterator[core.Var]:
    """Yield those that are no literals."""
    return (atom for atom in atoms if not isinstance(atom, core.Literal))


def segments(jaxpr: core.Jaxpr) -> list[Segment]:
    """What is to be compiled of a function, in the order of the computation.

    What no result depends on is left out.
    """
    groups = list(_groups(_needed(jaxpr)))
    wanted, found = set(variables(jaxpr.outvars)), []
    for group in reversed(groups):
        made = [variable for equation in group for variable in equation.outvars]
        used = dict.fromkeys(v for equation in group for v in variables(equation.invars))
        takes = [variable for variable in used if variable not in {*made}]
        name = str(group[0].params["name"]) if is_part(group[0]) else "between"
        found.append(Segment(name, group, takes, [v for v in made if v in wanted]))
        wanted.update(takes)
    return found[::-1]


def _needed(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """The equations on which a result depends, and those that do more than compute, in order."""
    wanted, kept = set(variables(jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or wanted.intersection(equation.outvars):
            wanted.update(variables(equation.invars))
            kept.append(equation)
    return kept[::-1]


def _groups(equations: Iterable[core.JaxprEqn]) -> Iterator[list[core.JaxprEqn]]:
    """Yield the equations of each segment: those between parts when a part needs them."""
    waiting: list[core.JaxprEqn] = []
    for equation in equations:
        if not is_part(equation):
            waiting.append(equation)
            continue
        now, waiting = _behind(equation, waiting)
        yield from filter(None, [now, [equation]])
    yield from filter(None, [waiting])


def _behind(
    equation: core.JaxprEqn, waiting: list[core.JaxprEqn]
) -> tuple[list[core.JaxprEqn], list[core.JaxprEqn]]:
    """The waiting equations on which one depends, and the others, each in order."""
    wanted, now, later = set(variables(equation.invars)), [], []
    for before in reversed(waiting):
        if wanted.intersection(before.outvars):
            wanted.update(variables(before.invars))
            now.append(before)
        else:
            later.append(before)
    return now[::-1], later[::-1]


def forwarded(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """The same function, its parts relieved of what they only hand on.

    What differentiation keeps of a part for the way back is often what it was given, such as its
    weights: those are then taken from where they are, rather than given out as copies.
    """
    instead: dict[core.Var, Any] = {}
    equations = []
    for equation in jaxpr.eqns:
        equations.append(equation.replace(invars=[_now(v, instead) for v in equation.invars]))
        if is_part(equation):
            inner = equation.params["jaxpr"].jaxpr
            given = dict(zip(inner.invars, equations[-1].invars, strict=True))
            handed = zip(equation.outvars, inner.outvars, strict=True)
            instead |= {out: given[v] for out, v in handed if _now(v, given) is not v}
    return jaxpr.replace(eqns=equations, outvars=[_now(v, instead) for v in jaxpr.outvars])


def _now(atom: Any, instead: dict[core.Var, Any]) -> Any:
    return atom if isinstance(atom, core.Literal) else instead.get(atom, atom)
