"""A step of fine-tuning, or of pre-training."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments.finetune import Config as Finetuning
from experiments.finetune.learner import language_loss, optimizer
from experiments.finetune.setting import frozen_weights, refuse_untrainable
from experiments.fit.counting import activations
from experiments.fit.workload import Made, Workload, made_by_parts
from experiments.pretrain import Config as Pretraining
from experiments.pretrain import learner as scratch
from experiments.pretrain.setting import any_vocabulary
from ilo_jax.corpora.packing import abstract_rows
from ilo_jax.models import parameters
from ilo_jax.models.losses import SCORES
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import Share
from ilo_jax.sharding import AnyMesh, along_data, device_bytes, replicated
from ilo_jax.training.cost import step_cost
from ilo_jax.training.freezing import lowest_block, split
from ilo_jax.training.language import Batch
from ilo_jax.training.order import Order, own_slots
from ilo_jax.training.step import Loss, State, abstract, make_step

Shapes = dict[str, jax.ShapeDtypeStruct]


class Inputs(NamedTuple):
    """What a step takes, with shapes in place of arrays."""

    state: State
    frozen: Shapes
    batch: Batch
    key: jax.ShapeDtypeStruct


class Learning(NamedTuple):
    """What a step learns, and how."""

    frozen: dict[str, bool]
    """Whether each weight is."""
    loss: Callable[[Mesh], Loss]
    optimizer: optax.GradientTransformation
    cached: bool = False
    """Whether the states of frozen first blocks are there already."""


def step(config: Finetuning, model: Transformer, mesh: AnyMesh) -> Workload:
    """A step of fine-tuning, on rows that are full.

    Args:
        config: Of the fine-tuning.
        model: Abstract.
        mesh: With axes "data" and "model".

    Raises:
        ValueError: If the model cannot be trained so, or rows do not divide over the mesh.
    """
    kind = model.config
    refuse_untrainable(config, kind)
    frozen = frozen_weights(config, kind, parameters.shapes(model))
    loss = partial(language_loss, config, kind, lowest=lowest_block(kind, frozen))
    learning = Learning(frozen, loss, optimizer(config), bool(config.frozen_states))
    return _step(config, model, mesh, learning)


def step_from_scratch(config: Pretraining, model: Transformer, mesh: AnyMesh) -> Workload:
    """A step of pre-training, on rows that are full.

    Args:
        config: Of the pre-training.
        model: Abstract.
        mesh: With axes "data" and "model".

    Raises:
        ValueError: If rows do not divide over the mesh.
    """
    vocabulary = any_vocabulary(config, model.config.vocab)
    loss = partial(scratch.language_loss, config, model.config, vocabulary=vocabulary)
    frozen = dict.fromkeys(parameters.shapes(model), False)
    return _step(config, model, mesh, Learning(frozen, loss, scratch.optimizer(config)))


def _step(
    config: Finetuning | Pretraining, model: Transformer, mesh: AnyMesh, learning: Learning
) -> Workload:
    weights = parameters.abstract_weights(model, mesh, dtype=jnp.float32, fsdp=config.fsdp)
    trainable, still = split(weights, learning.frozen)
    state, order = abstract(learning.optimizer, trainable, mesh), _order(config, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0)).update(sharding=replicated(mesh))
    batch = _batch(config, model, order, mesh, cached=learning.cached)
    given = Inputs(state, still, batch, key)

    def compile() -> Made:
        assert isinstance(mesh, Mesh)
        loss = learning.loss(mesh)
        return made_by_parts(make_step(loss, learning.optimizer, like=state, mesh=mesh), *given)

    cost = step_cost(
        model.config,
        {path: like.shape for path, like in weights.items()},
        learning.frozen,
        rows=config.rows,
        row_length=config.row_length,
        cached=learning.cached,
        remat=config.remat,
    )
    parts = f", {order.part_rows} at a time" if order.parts > 1 else ""
    lowest = lowest_block(model.config, learning.frozen)
    return Workload(
        f"step of training on {config.rows} rows of {config.row_length} tokens{parts}",
        {
            "weights": (state.weights, still),
            "optimizer state": (state.step, state.moments),
            "kept states": given.batch.kept,
            "rows": (given.batch.rows, key),
        },
        beside=_beside(config, model, mesh, given, lowest=lowest),
        operations=cost.total / mesh.size,
        dtype=config.dtype,
        results=1,
        compile=compile,
    )


def _order(config: Finetuning | Pretraining, mesh: AnyMesh) -> Order:
    at_once = config.rows_at_once or config.rows
    order = Order(config.rows, config.rows // at_once, at_once, config.seed)
    own_slots(order, Share(0, 1, first=True, width=mesh.shape["data"]))
    return order


def _batch(
    config: Finetuning | Pretraining,
    model: Transformer,
    order: Order,
    mesh: AnyMesh,
    *,
    cached: bool,
) -> Batch:
    along, shape = along_data(mesh, axis=1), (order.parts, order.part_rows, config.row_length)
    rows = abstract_rows(*shape, sharding=along)
    if not cached:
        return Batch(rows)
    states, dtype = (*shape, model.config.dim), jnp.dtype(config.dtype)
    kept: Any = jax.ShapeDtypeStruct(states, dtype, sharding=along)
    return Batch(rows, kept)


def _beside(
    config: Finetuning | Pretraining,
    model: Transformer,
    mesh: AnyMesh,
    given: Inputs,
    *,
    lowest: int,
) -> int:
    """Gradients, what differentiation keeps of each block, and one block on the way back."""
    block = activations(model.config, mesh, fsdp=config.fsdp)
    parts, *shape = given.batch.rows.tokens.shape
    tokens = math.prod(shape) // mesh.shape["data"]
    kept = (model.config.layers - lowest) * (model.config.dim if config.remat else block.token)
    numbers = tokens * (kept + 2 * block.token) + 2 * block.weights
    gradients = device_bytes(given.state.weights) * (2 if parts > 1 else 1)
    return numbers * jnp.dtype(config.dtype).itemsize + gradients + 2 * 4 * SCORES
