"""One step of training: a loss, an optimizer and a batch, over the mesh of the weights."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from ilo_jax.corpora.packing import Rows
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.losses import next_token_losses, predicted
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import replicated
from ilo_jax.training import optimizers

Weights = dict[str, jax.Array]
"""By path, such as "layers/3/attn/q/kernel"."""


class Batch(NamedTuple):
    """What one step learns from: a leading axis of parts whose gradients are added up."""

    rows: Rows
    """Each array "part row seq"."""
    prefix: Float[Array, "part row seq dim"] | None = None
    """The hidden state before the lowest block that trains, where it is known already."""


class Total(NamedTuple):
    """A loss before it is divided, so that parts of a batch can be added up."""

    sum: Float[Array, ""]
    """Over all that counts, in nats."""
    count: Int[Array, ""]
    """Of what counts: tokens, or choices."""


Loss = Callable[[Transformer, Batch], Total]
"""Of a model on one part of a batch, without the leading axis."""


class State(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    """How many were taken."""
    weights: Weights
    """Those that train, float32."""
    moments: PyTree
    """Of the optimizer."""


class Measures(NamedTuple):
    """Of one step, before its update."""

    loss: Float[Array, ""]
    """Mean of the batch, in nats."""
    count: Int[Array, ""]
    """Of what the loss is the mean of."""
    gradient_norm: Float[Array, ""]
    """Of all weights that train, before clipping."""


Step = Callable[[State, Weights, Batch], tuple[State, Measures]]
"""Takes the state (which it consumes), the frozen weights, and a batch."""


def causal(model: Transformer, batch: Batch, *, lowest: int, remat: bool) -> Total:
    """Return the next-token loss of a causal language model.

    Args:
        model: with a head.
        batch: one part.
        lowest: block that `batch.prefix` leads up to, if it is there.
        remat: whether differentiation computes each block again rather than keep it.
    """
    rows, blocks = batch.rows, range(lowest, model.config.layers)
    hidden = batch.prefix
    if hidden is None:
        hidden = model.begin(rows.tokens, rows.positions)
        blocks = range(model.config.layers)
    final = model.through(hidden, rows.positions, rows.segments, blocks=blocks, remat=remat)
    return Total(next_token_losses(model, final, rows).sum(), predicted(rows).sum())


def begin(optimizer: optax.GradientTransformation, weights: Weights, mesh: Mesh) -> State:
    """Return the state before the first step.

    Args:
        optimizer: of which the state is made.
        weights: that train; the first step consumes them.
        mesh: on which they lie.
    """
    lies = optimizers.shardings(optimizer, weights, mesh)
    moments = jax.jit(optimizer.init, out_shardings=lies)(weights)
    count = jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh))
    return State(count, weights, moments)


def make_step(
    config: ModelConfig,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    like: State,
    mesh: Mesh,
    dtype: DTypeLike,
) -> Step:
    """Return the jitted step.

    Only weights of the state are differentiated: no gradient is computed for a frozen one,
    and nothing below the lowest block that trains is gone through backwards. So the
    optimizer never sees a frozen weight, and needs no mask.

    Args:
        config: of the model.
        loss: what is minimised; its mean over the whole batch, whatever the parts.
        optimizer: over the weights that train.
        like: a state, for where its arrays lie.
        mesh: of all arrays.
        dtype: of the computation; weights, gradients and moments stay float32.
    """
    assemble = parameters.assembler(config, mesh, dtype=dtype)

    def total(weights: Weights, frozen: Weights, batch: Batch) -> tuple[Array, Array]:
        found = loss(assemble({**weights, **frozen}), batch)
        return found.sum, found.count

    def step(state: State, frozen: Weights, batch: Batch) -> tuple[State, Measures]:
        gradients, (loss, count) = _added_up(total, state.weights, frozen, batch)
        share = 1 / jnp.maximum(count, 1)
        gradients = jax.tree.map(lambda gradient: gradient * share, gradients)
        measures = Measures(loss * share, count, optax.tree.norm(gradients))
        updates, moments = optimizer.update(gradients, state.moments, state.weights)
        weights = cast(Weights, optax.apply_updates(state.weights, updates))
        return State(state.step + 1, weights, moments), measures

    lies = jax.tree.map(lambda array: array.sharding, like)
    return jax.jit(step, donate_argnums=0, out_shardings=(lies, replicated(mesh)))


def _added_up(
    total: Callable[[Weights, Weights, Batch], tuple[Array, Array]],
    weights: Weights,
    frozen: Weights,
    batch: Batch,
) -> tuple[Weights, tuple[Array, Array]]:
    """Return gradients, loss and count, each the sum over the parts of a batch."""
    differentiate = jax.value_and_grad(total, has_aux=True)

    def of(part: Batch) -> tuple[Weights, tuple[Array, Array]]:
        (loss, count), gradients = differentiate(weights, frozen, part)
        return gradients, (loss, count)

    def add(so_far: PyTree, part: Batch) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, so_far, of(part)), None

    if batch.rows.tokens.shape[0] == 1:
        return of(jax.tree.map(lambda array: array[0], batch))
    like = jax.eval_shape(of, jax.tree.map(lambda array: array[0], batch))
    nothing = jax.tree.map(lambda sum: jnp.zeros(sum.shape, sum.dtype), like)
    return jax.lax.scan(add, nothing, batch)[0]
