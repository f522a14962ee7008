"""AdamW as language models are fine-tuned with it."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh, Sharding

from ilo_jax.sharding import replicated


def schedule_errors(peak: float, *, warmup: int, steps: int) -> list[str]:
    """What makes a learning rate impossible, one sentence each; empty if nothing does."""
    errors = [] if peak > 0 else [f"learning_rate must be positive, got {peak}"]
    if not 0 <= warmup < steps:
        errors.append(f"warmup must be in [0, {steps - 1}] for {steps} steps, got {warmup}")
    return errors


def warmup_cosine(peak: float, *, warmup: int, steps: int) -> optax.Schedule:
    """Return the learning rate of each step: a line up from 0 to `peak`, then a half cosine to 0.

    Raises:
        ValueError: naming what `schedule_errors` finds.
    """
    if errors := schedule_errors(peak, warmup=warmup, steps=steps):
        raise ValueError("; ".join(errors))
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """Return AdamW (Loshchilov and Hutter 2019) over the weights that train.

    Args:
        schedule: learning rate of each step, from 0.
        b1: decay of the mean of gradients.
        b2: decay of the mean of their squares.
        eps: added to the root of the latter.
        weight_decay: of matrices only: biases and the scales of norms do not decay.
        clip: norm that all gradients together are cut down to; 0: they are not.
    """
    update = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=_matrices)
    return optax.chain(optax.clip_by_global_norm(clip), update) if clip else update


def _matrices(weights: Mapping[str, Any]) -> dict[str, bool]:
    return {path: path.rsplit("/", 1)[1] in {"kernel", "embedding"} for path in weights}


def shardings(
    optimizer: optax.GradientTransformation, weights: Mapping[str, jax.Array], mesh: Mesh
) -> Any:
    """Return how the optimizer's state lies: moments as their weights, all else everywhere.

    Args:
        optimizer: whose state is asked for.
        weights: that train, by path.
        mesh: on which they lie.
    """

    def of(keys: tuple[Any, ...], _: jax.ShapeDtypeStruct) -> Sharding:
        paths = [key.key for key in keys if isinstance(key, jax.tree_util.DictKey)]
        return lies[paths[-1]] if paths else replicated(mesh)

    lies = {path: weight.sharding for path, weight in weights.items()}
    return jax.tree_util.tree_map_with_path(of, jax.eval_shape(optimizer.init, dict(weights)))
