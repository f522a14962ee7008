"""A function compiled part by part, and its parts run in turn.

XLA compiles a function anew wherever it is called: a model of 32 equal blocks costs 32
compilations. `by_parts` traces a function as a whole, gradients and all, and cuts it where it calls
what `parts.part` has marked. Each distinct part is compiled once, and so is what lies between two
of them; to call the whole is to run them in turn::

    @part()
    def block(weights, hidden):
        return jnp.tanh(hidden @ weights)

    def loss(weights, hidden):
        for matrix in weights:
            hidden = block(matrix, hidden)
        return (hidden**2).sum()

    gradient = by_parts(jax.grad(loss), mesh)  # the first block, and all others, there and back
    gradient(weights, hidden)

A value is let go of behind the last part that takes it; where that part has a result of its shape,
the result takes its place in memory.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.sharding import Mesh, Sharding
from jaxtyping import PyTree

from ilo_jax.compiling.compiler import Call, Compiler, shape_of
from ilo_jax.compiling.parts import forwarded
from ilo_jax.emitted import Memory, memory
from ilo_jax.processes import in_order
from ilo_jax.sharding import device_bytes, place_loose, replicated
from ilo_jax.topologies import is_absent


class Program(NamedTuple):
    """A function compiled for arguments of one kind."""

    calls: tuple[Call, ...]
    takes: tuple[core.Var, ...]
    gives: tuple[Any, ...]
    """Variables; literals and constants as arrays, or as shapes for devices that are not there."""
    asked: tuple[Sharding | None, ...]
    """How each of them is to lie."""
    tree: Any
    """Structure of what it gives."""
    lies: Mapping[core.Var, Sharding]
    """Where every value lies."""
    kept: frozenset[core.Var]
    """Arguments that stay the caller's."""

    def __call__(self, *args: Any) -> Any:
        """Run all of it."""
        values = dict(zip(self.takes, jax.tree.leaves(args), strict=True))
        consumed = {*self.takes} - self.kept
        for call in self.calls:
            given = in_order(call.compiled(*[values[variable] for variable in call.takes]))
            for variable in call.done:
                if variable in consumed:
                    values[variable].delete()
                del values[variable]
            values |= zip(call.gives, given, strict=True)
            del given
        results = map(self._result, self.gives, self.asked, itertools.repeat(values))
        found = jax.tree.unflatten(self.tree, [*results])
        for variable in consumed.intersection(values).difference(_variables(self.gives)):
            values[variable].delete()
        return found

    def _result(self, give: Any, asked: Sharding | None, values: Mapping[core.Var, Any]) -> Any:
        """What was computed, or an argument or constant where it is to lie."""
        if not isinstance(give, core.Var):
            # The caller may consume it.
            return jnp.copy(give)
        value = values[give]
        computed = give not in self.takes
        return value if computed or asked is None else jax.device_put(value, asked)

    @property
    def memory(self) -> Memory:
        """What it takes of a device's memory, where it takes most: a walk through its calls."""
        known = device_bytes([give for give in self.gives if not isinstance(give, core.Var)])
        held = {variable: self._bytes(variable) for variable in self.takes}
        arguments = sum(held.values())
        most = arguments + known
        for call in self.calls:
            own = memory(call.compiled)
            given = {variable: self._bytes(variable) for variable in call.gives}
            at = sum(held.values()) + sum(given.values()) + known - own.aliased + own.temporaries
            most = max(most, at)
            held |= given
            for variable in call.done:
                del held[variable]
        results = {*_variables(self.gives)}.difference(self.takes)
        outputs = known + sum(map(self._bytes, results))
        code = sum(memory(call.compiled).code for call, _ in self.distinct)
        aliased = min(outputs, sum(map(self._bytes, {*self.takes} - self.kept)))
        return Memory(arguments, outputs, aliased, most - arguments - outputs + aliased, code)

    def _bytes(self, variable: core.Var) -> int:
        """Of a value on each device."""
        return device_bytes(shape_of(variable).update(sharding=self.lies[variable]))

    @property
    def distinct(self) -> list[tuple[Call, int]]:
        """Each compiled segment once, with how often it is called."""
        often = Counter(id(call.compiled) for call in self.calls)
        first = {id(call.compiled): call for call in reversed(self.calls)}
        return [(first[key], often[key]) for key in often]


class ByParts:
    """A function that compiles by parts for each kind of arguments that it is called with."""

    def __init__(
        self,
        function: Callable[..., Any],
        mesh: Mesh,
        donated: Sequence[int],
        out_shardings: Any,
    ):
        self.function, self.mesh = function, mesh
        self.donated, self.out_shardings = donated, out_shardings
        self.programs: dict[Hashable, Program] = {}

    def __call__(self, *args: Any) -> Any:
        """Run the function; what does not lie on the mesh is put there, whole on every device."""
        args = place_loose(args, self.mesh)
        return self.compiled(*args)(*args)

    def trace(self, *args: Any) -> core.ClosedJaxpr:
        """What it computes from arguments, as JAX has it: arrays, or shapes in their place."""
        return jax.make_jaxpr(self.function)(*args)

    def compiled(self, *args: Any) -> Program:
        """The program for arguments: arrays on the mesh, or shapes with shardings."""
        leaves, tree = jax.tree.flatten(args)
        key = tree, tuple(map(_kind, leaves))
        if key not in self.programs:
            self.programs[key] = self._compile(args)
        return self.programs[key]

    def _compile(self, args: tuple[Any, ...]) -> Program:
        closed, like = jax.make_jaxpr(self.function, return_shape=True)(*args)
        jaxpr = forwarded(closed.jaxpr)
        consts = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        lies = [leaf.sharding for leaf in jax.tree.leaves(args)]
        is_donated = [n in self.donated for n, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
        taken = zip(jaxpr.invars, is_donated, strict=True)
        kept = frozenset(variable for variable, donated in taken if not donated)
        asked = _leaves(self.out_shardings, like)
        compiler = Compiler(jaxpr, consts, lies, kept, asked, self.mesh)
        calls = tuple(map(compiler.call, range(len(compiler.segments))))
        tree = jax.tree.structure(like)
        gives = [self._placed(v, consts, to) for v, to in zip(jaxpr.outvars, asked, strict=True)]
        return Program(calls, (*jaxpr.invars,), (*gives,), (*asked,), tree, compiler.lies, kept)

    def _placed(self, give: Any, consts: Mapping[core.Var, Any], asked: Sharding | None) -> Any:
        """A result; what is known before anything is computed, on the mesh."""
        known = give.val if isinstance(give, core.Literal) else consts.get(give)
        if known is None:
            return give
        if is_absent(self.mesh):
            return shape_of(give).update(sharding=asked or replicated(self.mesh))
        return jax.device_put(place_loose(np.asarray(known), self.mesh), asked)


def by_parts(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    donated: Sequence[int] = (),
    out_shardings: Any = None,
) -> ByParts:
    """Make the function that compiles by parts, much as `jax.jit` makes one that compiles whole.

    Args:
        function: Of pytrees of arrays. Control flow of JAX around a part, such as `jax.lax.scan`,
            makes it a part of that: Python's own repeats it.
        mesh: On whose devices it runs.
        donated: Which arguments a call consumes.
        out_shardings: Of its results, or of whole subtrees of them; None: as the compiler likes. A
            result that is an argument is that very array, if it lies so.
    """
    return ByParts(function, mesh, tuple(donated), out_shardings)


def _kind(leaf: Any) -> tuple[Any, ...]:
    """What a program depends on of an argument."""
    return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False), leaf.sharding


def _variables(gives: Iterable[Any]) -> Iterator[core.Var]:
    return (give for give in gives if isinstance(give, core.Var))


def _leaves(prefix: Any, like: PyTree) -> list[Any]:
    """One entry for each leaf of a pytree, by a prefix of it in which None is an entry, too."""
    whole = jax.tree.broadcast(prefix, like, is_leaf=lambda x: x is None)
    return jax.tree.leaves(whole, is_leaf=lambda x: x is None)
