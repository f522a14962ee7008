"""One step of training: a loss, an optimizer and a batch in parts, over any pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree

from ilo_jax.compiling.parts import part
from ilo_jax.compiling.program import ByParts, by_parts
from ilo_jax.refusals import refuse
from ilo_jax.sharding import AnyMesh, replicated
from ilo_jax.training import optimizers, updates


class Total(NamedTuple):
    """A loss before it is divided, so that parts of a batch can be added up."""

    sum: Float[Array, ""]
    """Over all that counts."""
    count: Int[Array, ""]
    """How much counts: tokens, sentences, points."""


Loss = Callable[[PyTree, PyTree, PyTree, Key[Array, ""]], Total]
"""The loss of one part of a batch.

It is given the weights that train, those that are frozen, the part (every leaf without the
leading axis) and a random key that no other part of any step has.
"""


class State(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    """How many were taken."""
    weights: PyTree
    """Those that train, float32."""
    moments: PyTree
    """The optimizer's own state."""


class Measures(NamedTuple):
    """What a step measured, before its update."""

    loss: Float[Array, ""]
    """Mean over all that counts in the batch."""
    count: Int[Array, ""]
    """How much counts."""
    gradient_norm: Float[Array, ""]
    """Norm of the gradients of all weights that train, before clipping."""


def begin(optimizer: optax.GradientTransformation, weights: PyTree, mesh: Mesh) -> State:
    """Make the state before the first step.

    Args:
        optimizer: Its moments are made.
        weights: Those that train, which the first step consumes.
        mesh: On which they lie.

    Raises:
        ValueError: Naming weights that are not float32.
    """
    _refuse_other_than_float32(weights)
    lies = optimizers.shardings(optimizer, weights, mesh)
    moments = jax.jit(optimizer.init, out_shardings=lies)(weights)
    count = jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh))
    return State(count, weights, moments)


def abstract(optimizer: optax.GradientTransformation, weights: PyTree, mesh: AnyMesh) -> State:
    """Shapes, dtypes and shardings of a state, in place of its arrays.

    Args:
        optimizer: Its moments are described.
        weights: Those that train: arrays, or shapes with shardings.
        mesh: On which they lie.

    Raises:
        ValueError: Naming weights that are not float32.
    """
    _refuse_other_than_float32(weights)
    lies = optimizers.shardings(optimizer, weights, mesh)
    count: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    shapes = jax.tree.map(lambda weight: _shape(weight, weight.sharding), weights)
    moments = jax.tree.map(_shape, jax.eval_shape(optimizer.init, weights), lies)
    return State(count, shapes, moments)


def _shape(array: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _refuse_other_than_float32(weights: PyTree) -> None:
    others = [
        f"{weight.dtype} of {jax.tree_util.keystr(path, simple=True, separator='/')}"
        for path, weight in jax.tree.leaves_with_path(weights)
        if weight.dtype != jnp.float32
    ]
    refuse(
        "weights that train must be float32, until the loss casts them; got", others, inline=True
    )


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, *, like: State, mesh: Mesh
) -> ByParts:
    """Make the step, compiled by parts.

    It takes the state, which it consumes, the frozen weights, a batch and the key of the run, and
    gives the next state and `Measures`.

    It minimises the mean of the loss over a whole batch, whatever its parts: every leaf of a
    batch has a leading axis of them; they are computed one after the other, and their gradients
    are added up in float32. Only the weights of the state are differentiated, so that a frozen
    one has neither gradient nor moments and the optimizer needs no mask.

    The random key of a part is `fold_in(fold_in(key, steps taken), number of the part)`: it
    depends on the key of the run and on what it is for, so a run that was stopped and
    continued draws what one that was not would have drawn.

    Args:
        loss: Of one part.
        optimizer: Over the weights that train.
        like: A state, or its `abstract`, for where its arrays lie.
        mesh: On which all arrays lie.
    """

    def step(
        state: State, frozen: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[State, Measures]:
        key = jax.random.fold_in(key, state.step)
        gradients, total = _added_up(loss, state, frozen, batch, key)
        share = 1 / jnp.maximum(total.count, 1)
        measures = Measures(total.sum * share, total.count, share * updates.norm(gradients))
        weights, moments = updates.updated(
            optimizer, gradients, state.moments, state.weights, share, measures.gradient_norm
        )
        return State(state.step + 1, weights, moments), measures

    lies = jax.tree.map(lambda array: array.sharding, like)
    return by_parts(step, mesh, donated=[0], out_shardings=(lies, replicated(mesh)))


def _added_up(
    loss: Loss, state: State, frozen: PyTree, batch: PyTree, key: Key[Array, ""]
) -> tuple[PyTree, Total]:
    """Gradients and loss, each the sum over the parts of a batch."""

    def total(trainable: PyTree, part: PyTree, key: Key[Array, ""]) -> tuple[Array, Total]:
        found = loss(trainable, frozen, part, key)
        return found.sum, found

    gradient = jax.value_and_grad(total, has_aux=True)
    number, found = jnp.zeros_like(state.step), None
    for _ in range(len(jax.tree.leaves(batch)[0])):
        one, own, number = _part_of(batch, key, number)
        (_, of_part), gradients = gradient(state.weights, one, own)
        found = (gradients, of_part) if found is None else _sum(found, (gradients, of_part))
    assert found is not None
    return found


@part()
def _part_of(
    batch: PyTree, key: Key[Array, ""], number: Int[Array, ""]
) -> tuple[PyTree, Key[Array, ""], Int[Array, ""]]:
    """A part of a batch, its random key, and the number of the next."""
    one = jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, number, 0, False), batch)
    return one, jax.random.fold_in(key, number), number + 1


@part()
def _sum(one: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, one, other)
