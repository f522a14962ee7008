"""AdamW and Muon as language models train with them, and how any optimizer's state lies."""

import math
import re
from typing import Any

import jax
import optax
import optax.contrib
from jax.tree_util import keystr
from jaxtyping import PyTree

from ilo_jax.sharding import AnyMesh, replicated


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


class ByBlock(optax.GradientTransformation):
    """An optimizer that updates each weight by itself, but for a bound on the norm of all.

    `updates.updated` makes its updates block by block.
    """

    alone: optax.GradientTransformation
    """Of each weight, without that bound."""
    clip: float
    """Norm that all gradients together are cut down to; 0: they are not."""

    @classmethod
    def bounded(cls, alone: optax.GradientTransformation, clip: float) -> "ByBlock":
        """Make one of an optimizer to which each weight is all there is."""
        whole = optax.chain(optax.clip_by_global_norm(clip), alone) if clip else alone
        self = cls(whole.init, whole.update)
        self.alone, self.clip = alone, clip
        return self


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 0.0,
) -> ByBlock:
    """AdamW (Loshchilov and Hutter 2019) over the weights that train.

    Args:
        schedule: Learning rate of each step, from 0.
        b1: Decay of the mean of gradients.
        b2: Decay of the mean of their squares.
        eps: Added to the root of the latter.
        weight_decay: Of matrices only: biases and the scales of norms do not decay.
        clip: Norm that all gradients together are cut down to; 0: they are not.
    """
    alone = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=_matrices)
    return ByBlock.bounded(alone, clip)


MATRIX = re.compile(r"(layers/\d+/)?(attn|mlp)/\w+/kernel")
"""The matrices within a block, by their whole path or by their name within the block."""
AS_ADAMW = 0.2
"""Root mean square of a whole update of AdamW, about (Liu et al. 2025, section 2.2)."""


def muon(
    schedule: optax.Schedule, *, beta: float = 0.95, weight_decay: float = 0.0, clip: float = 0.0
) -> ByBlock:
    """Muon (Jordan et al. 2024) over the matrices within blocks, and AdamW over all else.

    The momentum of a matrix, with Nesterov's look ahead, is made about orthogonal by five steps of
    Newton-Schulz, and as large as an update of AdamW, so that both may have one learning rate and
    one decay (Liu et al. 2025, arXiv 2502.16982, section 2.2). Embedding, head, norms and biases
    are updated as by `adamw`.

    Args:
        schedule: Learning rate of each step, from 0.
        beta: Decay of the momentum.
        weight_decay: Of matrices only: biases and the scales of norms do not decay.
        clip: Norm that all gradients together are cut down to; 0: they are not.
    """
    matrices = optax.contrib.muon(
        schedule, beta=beta, weight_decay=weight_decay, consistent_rms=AS_ADAMW
    )
    others = optax.adamw(schedule, weight_decay=weight_decay, mask=_matrices)
    alone = optax.partition({"muon": matrices, "adamw": others}, _kinds)
    return ByBlock.bounded(alone, clip)


def _kinds(weights: PyTree) -> PyTree:
    """By which of the two `muon` updates each weight."""

    def kind(path: tuple[Any, ...], _: Any) -> str:
        name = keystr(path, simple=True, separator="/")
        return "muon" if MATRIX.fullmatch(name) else "adamw"

    return jax.tree.map_with_path(kind, weights)


def _matrices(weights: PyTree) -> PyTree:
    """Whether each weight is a matrix, and no scale of a norm, which may have one for each head."""

    def is_matrix(path: tuple[Any, ...], weight: Any) -> bool:
        return weight.ndim > 1 and not keystr(path[-1:], simple=True).endswith("scale")

    return jax.tree.map_with_path(is_matrix, weights)


def shardings(optimizer: optax.GradientTransformation, weights: PyTree, mesh: AnyMesh) -> PyTree:
    """How an optimizer's state lies: moments as the weights whose shape they have, all else whole.

    Args:
        optimizer: Its state is asked for.
        weights: Those that train: arrays, or shapes with shardings.
        mesh: On which they lie.
    """

    def of(moment: Any, weight: Any) -> Any:
        if isinstance(moment, optax.MaskedNode):  # in place of what another part has
            return moment
        return weight.sharding if moment.shape == weight.shape else replicated(mesh)

    return optax.tree.map_params(
        optimizer,
        of,
        jax.eval_shape(optimizer.init, weights),
        weights,
        transform_non_params=lambda _: replicated(mesh),
        is_leaf=lambda part: isinstance(part, optax.MaskedNode),
    )
