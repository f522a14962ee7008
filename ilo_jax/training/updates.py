"""How gradients become new weights: all at once, or block by block, each kind compiled once."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import all_leaves
from jaxtyping import Array, Float, PyTree

from ilo_jax.compiling.parts import part
from ilo_jax.training.optimizers import ByBlock


def norm(gradients: PyTree) -> Float[Array, ""]:
    """The norm of all gradients together; of a dict by path, added up block by block."""
    if not _is_by_path(gradients):
        return optax.tree.norm(gradients)
    blocks = _blocks(gradients).values()
    return jnp.sqrt(sum(squares(_chosen(paths, gradients)) for paths in blocks))


def _is_by_path(tree: PyTree) -> bool:
    """Whether it is a dict of arrays by path."""
    by_path = type(tree) is dict and all(isinstance(path, str) for path in tree)
    return by_path and bool(tree) and all_leaves(tree.values())


@part()
def squares(gradients: PyTree) -> Float[Array, ""]:
    """The sum of the squares of all gradients."""
    return optax.tree.norm(gradients, squared=True)


def updated(
    optimizer: optax.GradientTransformation,
    gradients: PyTree,
    moments: PyTree,
    weights: PyTree,
    share: Float[Array, ""],
    norm: Float[Array, ""],
) -> tuple[PyTree, PyTree]:
    """The weights and moments after an update.

    Where the optimizer is `ByBlock` and the weights are a dict by path, those of a block are
    updated together, which is compiled once for all blocks that are alike and holds few arrays at
    a time.

    Args:
        optimizer: Over the weights.
        gradients: Of each weight, to be multiplied by `share`.
        moments: The optimizer's state.
        weights: Those that train.
        share: What makes a mean of a sum.
        norm: Of all gradients, multiplied by `share`.
    """
    if isinstance(optimizer, ByBlock) and _is_by_path(weights):
        return _by_block(optimizer, gradients, moments, weights, share, norm)
    gradients = jax.tree.map(lambda gradient: gradient * share, gradients)
    updates, moments = optimizer.update(gradients, moments, weights)
    return optax.apply_updates(weights, updates), moments


def _by_block(
    optimizer: ByBlock,
    gradients: dict[str, Array],
    moments: PyTree,
    weights: dict[str, Array],
    share: Float[Array, ""],
    norm: Float[Array, ""],
) -> tuple[dict[str, Array], PyTree]:
    # With a bound the state is a pair, of which the first is empty.
    before = moments[-1] if optimizer.clip else moments
    made, after = dict(weights), before
    for paths in _blocks(weights).values():
        new, left = update_block(
            _chosen(paths, gradients),
            _of_block(paths, before, weights),
            _chosen(paths, weights),
            share,
            norm,
            alone=optimizer.alone,
            clip=optimizer.clip,
        )
        made |= {path: new[name] for name, path in paths.items()}
        after = _with_block(paths, after, left, weights)
    return made, (*moments[:-1], after) if optimizer.clip else after


def _chosen(paths: Mapping[str, str], of: Mapping[str, Any]) -> dict[str, Any]:
    return {name: of[path] for name, path in paths.items()}


def _of_block(paths: Mapping[str, str], moments: PyTree, weights: Mapping[str, Array]) -> PyTree:
    """The part of an optimizer's state that is of a block's weights, and what is of none."""
    of_weights = partial(_has_all, weights)
    return jax.tree.map(
        lambda part: _chosen(paths, part) if of_weights(part) else part,
        moments,
        is_leaf=of_weights,
    )


def _with_block(
    paths: Mapping[str, str], moments: PyTree, block: PyTree, weights: Mapping[str, Array]
) -> PyTree:
    """An optimizer's state with the part that is of a block's weights."""
    of_weights = partial(_has_all, weights)

    def joined(old: Any, new: Any) -> Any:
        return old | {p: new[n] for n, p in paths.items()} if of_weights(old) else new

    return jax.tree.map(joined, moments, block, is_leaf=of_weights)


def _has_all(weights: Mapping[str, Array], part: Any) -> bool:
    """Whether a part of an optimizer's state has something for each weight."""
    return isinstance(part, dict) and part.keys() == weights.keys()


def _blocks(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """The paths of each block by the name within it, and of what is in none by their own."""
    blocks: dict[str, dict[str, str]] = {}
    for path in paths:
        match = re.match(r"layers/\d+/", path)
        block = match[0] if match else path.partition("/")[0]
        name = path.removeprefix(block) if match else path
        blocks.setdefault(block, {})[name] = path
    return blocks


@part("alone", "clip")
def update_block(
    gradients: dict[str, Array],
    moments: PyTree,
    weights: dict[str, Array],
    share: Float[Array, ""],
    norm: Float[Array, ""],
    *,
    alone: optax.GradientTransformation,
    clip: float,
) -> tuple[dict[str, Array], PyTree]:
    """Some weights and their moments after an update; see `updated` and `ByBlock`."""

    def scaled(gradient: Array) -> Array:
        gradient *= share
        return jnp.where(norm < clip, gradient, gradient / norm * clip) if clip else gradient

    updates, moments = alone.update(jax.tree.map(scaled, gradients), moments, weights)
    weights = jax.tree.map(jnp.add, weights, updates)
    return weights, moments
