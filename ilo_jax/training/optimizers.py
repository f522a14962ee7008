"""AdamW as language models are fine-tuned with it, and how any optimizer's state lies on a mesh."""

import math
from typing import Any

import jax
import optax
from jax.sharding import Mesh, Sharding
from jax.tree_util import keystr
from jaxtyping import PyTree

from ilo_jax.sharding import replicated


def schedule_errors(peak: float, *, warmup: int, steps: int) -> list[str]:
    """What makes a learning rate impossible, one sentence each; empty if nothing does."""
    errors = [] if 0 < peak < math.inf else [f"learning_rate must be positive, got {peak}"]
    if not 0 <= warmup < steps:
        errors.append(f"warmup must be in [0, {steps - 1}] for {steps} steps, got {warmup}")
    return errors


def warmup_cosine(peak: float, *, warmup: int, steps: int) -> optax.Schedule:
    """The learning rate of each step: a line up from 0 to `peak`, then a half cosine to 0.

    Raises:
        ValueError: Naming what `schedule_errors` finds.
    """
    if errors := schedule_errors(peak, warmup=warmup, steps=steps):
        raise ValueError("; ".join(errors))
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) over the weights that train.

    Args:
        schedule: Learning rate of each step, from 0.
        b1: Decay of the mean of gradients.
        b2: Decay of the mean of their squares.
        eps: Added to the root of the latter.
        weight_decay: Of matrices only: biases and the scales of norms do not decay.
        clip: Norm that all gradients together are cut down to; 0: they are not.
    """
    update = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=_matrices)
    return optax.chain(optax.clip_by_global_norm(clip), update) if clip else update


def _matrices(weights: PyTree) -> PyTree:
    """Whether each weight is a matrix, and no scale of a norm, which may have one for each head."""

    def is_matrix(path: tuple[Any, ...], weight: Any) -> bool:
        return weight.ndim > 1 and not keystr(path[-1:], simple=True).endswith("scale")

    return jax.tree.map_with_path(is_matrix, weights)


def shardings(optimizer: optax.GradientTransformation, weights: PyTree, mesh: Mesh) -> PyTree:
    """How an optimizer's state lies: moments as the weights whose shape they have, all else whole.

    Args:
        optimizer: Its state is asked for.
        weights: Those that train: arrays, or shapes with shardings.
        mesh: On which they lie.
    """

    def of(moment: Any, weight: Any) -> Sharding:
        return weight.sharding if moment.shape == weight.shape else replicated(mesh)

    return optax.tree.map_params(
        optimizer,
        of,
        jax.eval_shape(optimizer.init, weights),
        weights,
        transform_non_params=lambda _: replicated(mesh),
    )
