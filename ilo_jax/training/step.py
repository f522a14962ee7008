"""One step of training: a loss, an optimizer and a batch in parts, over any pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree

from ilo_jax.refusals import refuse
from ilo_jax.sharding import replicated
from ilo_jax.training import optimizers


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


Step = Callable[[State, PyTree, PyTree, Key[Array, ""]], tuple[State, Measures]]
"""Takes the state (which it consumes), the frozen weights, a batch, and the key of the run."""


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


def abstract(optimizer: optax.GradientTransformation, weights: PyTree, mesh: Mesh) -> State:
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
) -> Step:
    """Make the jitted step.

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
        gradients, total = _added_up(loss, state.weights, frozen, batch, key)
        share = 1 / jnp.maximum(total.count, 1)
        gradients = jax.tree.map(lambda gradient: gradient * share, gradients)
        measures = Measures(total.sum * share, total.count, optax.tree.norm(gradients))
        updates, moments = optimizer.update(gradients, state.moments, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        return State(state.step + 1, weights, moments), measures

    lies = jax.tree.map(lambda array: array.sharding, like)
    return jax.jit(step, donate_argnums=0, out_shardings=(lies, replicated(mesh)))


def _added_up(
    loss: Loss, trainable: PyTree, frozen: PyTree, batch: PyTree, key: Key[Array, ""]
) -> tuple[PyTree, Total]:
    """Gradients and loss, each the sum over the parts of a batch."""

    def total(trainable: PyTree, part: PyTree, key: Key[Array, ""]) -> tuple[Array, Total]:
        found = loss(trainable, frozen, part, key)
        return found.sum, found

    def of(number: Int[Array, ""], part: PyTree) -> tuple[PyTree, Total]:
        own = jax.random.fold_in(key, number)
        (_, found), gradients = jax.value_and_grad(total, has_aux=True)(trainable, part, own)
        return gradients, found

    def add(so_far: PyTree, numbered: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, so_far, of(*numbered)), None

    numbers = jnp.arange(len(jax.tree.leaves(batch)[0]))
    first = jax.tree.map(lambda array: array[0], (numbers, batch))
    if len(numbers) == 1:
        return of(*first)
    nothing = jax.tree.map(lambda sum: jnp.zeros(sum.shape, sum.dtype), jax.eval_shape(of, *first))
    return jax.lax.scan(add, nothing, (numbers, batch))[0]
