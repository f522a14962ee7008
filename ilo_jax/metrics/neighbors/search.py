"""Exact nearest neighbours: a matrix product proposes, a proven bound decides.

Products of centred points propose a few more candidates than needed; the distances of the
candidates are then computed again from coordinate differences, and a bound on every rounding
error says whether the k nearest are certain. No N x N array is ever held.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.metrics.arguments import (
    array_errors,
    choice_errors,
    integer_errors,
    is_integer,
    length_errors,
    mesh_errors,
    refuse,
)
from ilo_jax.metrics.neighbors.cloud import Cloud, centred, low_precision_loss, usable_points
from ilo_jax.metrics.neighbors.meshes import automatic, automatic_mesh
from ilo_jax.metrics.neighbors.proof import Verdict, judged, product_slack
from ilo_jax.metrics.neighbors.selection import Candidates, no_candidates
from ilo_jax.metrics.neighbors.sizes import Sizes, sizes_for
from ilo_jax.metrics.neighbors.sweep import keys_of, search_by_pairs, search_in_turn
from ilo_jax.metrics.numerics import own_numerics

DISTANCES = ("cosine", "euclidean")
"""How far two points are from each other: by their angle, or by the length between them."""
PRECISIONS = ("exact", "fast")
"""How neighbours are proposed; wherever they are certain, the same ones are found."""
# Indices are int32, and so must be the number of points after they are padded.
_MOST_POINTS = 2**30


class Neighbors(NamedTuple):
    """The k nearest other points of each point."""

    index: Int[Array, "point k"]
    """Positions, nearest first; -1 where the point is unusable or has fewer than k usable others.
    """
    uncertain: Bool[Array, " point"]
    """True where rounding or a tie leaves open which points are the k nearest."""
    unusable: Bool[Array, " point"]
    """True where the point is left out: not finite, zero under cosine, or left out by the caller.
    """
    redone: Bool[Array, " point"]
    """True where products of low precision proved too little, so that float32 decided."""


def search_errors(num_points: int, *, k: Any, distance: Any, precision: Any) -> list[str]:
    """What makes a search impossible, one sentence each; empty if nothing does."""
    errors = integer_errors({"k": k})
    if num_points > _MOST_POINTS:
        errors.append(f"there must be at most {_MOST_POINTS} points, got {num_points}")
    if num_points < 2:
        errors.append(f"there must be at least 2 points, got {num_points}")
    elif is_integer(k) and not 1 <= k < num_points:
        errors.append(f"k must be in [1, {num_points - 1}] for {num_points} points, got {k}")
    errors += choice_errors("distance", distance, DISTANCES)
    return errors + choice_errors("precision", precision, PRECISIONS)


def _sharing_errors(*, mesh: Any, symmetric: Any, block: Any, tile: Any) -> list[str]:
    """What makes it impossible to cut a search up as asked for."""
    sizes = {"block": block, "tile": tile}
    errors = integer_errors({n: size for n, size in sizes.items() if size is not None}, least=1)
    errors += mesh_errors(mesh)
    if symmetric not in (None, True, False):
        errors.append(f"symmetric must be True, False or None, got {symmetric!r}")
    if symmetric and mesh is not None:
        errors.append("symmetric must not be asked for with a mesh, got both")
    return errors


@own_numerics()
def nearest(
    points: Float[Array, "point dim"],
    *,
    k: int,
    distance: str = "cosine",
    usable: Bool[Array, " point"] | None = None,
    precision: str = "exact",
    mesh: Mesh | None = None,
    symmetric: bool | None = None,
    block: int | None = None,
    tile: int | None = None,
) -> Neighbors:
    """The exact k nearest other points of each point.

    A point is never its own neighbour, however many others coincide with it. Unusable points are
    treated exactly as if they had been dropped. Which neighbours are right is decided for the
    points rounded to float32, in which everything is computed; where float32 cannot tell, or
    the k-th and (k+1)-th nearest tie, `uncertain` says so and either may be listed. A certain
    point has the same neighbours for every precision, mesh, block, tile and order of points.
    Outliers, up to about 1e14 times as far away as the rest, make no other point uncertain.

    Works under `jax.jit`, `jax.vmap` and `jax.lax.map`, and without a mesh under
    `jax.shard_map`. Differentiable nowhere: the gradient is stopped.

    Cost: 2 point^2 dim operations, or half as many if symmetric; memory for `block` rows of
    `point` scores beside a few copies of the points. With a mesh of n devices each does an n-th
    of it, and sends its points on n - 1 times; its memory is for an n-th of the points.

    Args:
        points: One point per row, in any float type; a float64 below the smallest normal float32
            may be rounded to 0.
        k: Number of neighbours, at least 1 and below the number of points.
        distance: "cosine" (the angle between points) or "euclidean".
        usable: False where the caller leaves a point out, padding for example.
        precision: "exact" proposes by float32 products; "fast" by bfloat16 ones, and searches
            again in float32 for the points whose candidates then prove too little. Both decide
            alike, but "fast" proposes more candidates: of a cluster that products cannot tell
            apart, as large as that, it leaves fewer points uncertain.
        mesh: Devices to share the work, over all its axes; points may lie on it in any way, on
            one process or several. None: wherever the points are.
        symmetric: Whether each product serves both its points, which takes half the products and
            more sorting. None: where that is known to be faster. Not possible with a mesh.
        block: Points searched for at once; by default as many as keep each temporary array within
            128 MiB, at most 256 (on GPUs 1 GiB and 2,048; on TPUs 64 MiB of scores and 2,048).
        tile: Scores that share a maximum in staged selection; by default what balances its stages,
            or, on TPUs, none: there the maxima of bins propose, and a count proves them.

    Raises:
        ValueError: If points are no floats "point dim" or more than 2^30, if `usable` has not a
            bool for each, if `k`, `distance`, `precision`, `mesh`, `block` or `tile` is not
            possible, or if symmetric is asked for with a mesh.
    """
    refuse(array_errors("points", points, axes="point dim", of="floats"))
    errors = search_errors(len(points), k=k, distance=distance, precision=precision)
    errors += _sharing_errors(mesh=mesh, symmetric=symmetric, block=block, tile=tile)
    if usable is not None:
        wrong = array_errors("usable", usable, axes="point", of="bools")
        count = len(points)
        errors += wrong or length_errors({"usable": len(usable)}, expected=count, of="points")
    refuse(errors)
    points = automatic(points)
    usable = jnp.ones(len(points), bool) if usable is None else automatic(usable)
    mesh = mesh and automatic_mesh(mesh)
    low = precision == "fast"
    sizes = sizes_for(
        points.shape, k=k, low=low, mesh=mesh, symmetric=symmetric, block=block, tile=tile
    )
    return _nearest(points, usable, k=k, distance=distance, low=low, sizes=sizes, mesh=mesh)


@partial(jax.jit, static_argnames=("k", "distance", "low", "sizes", "mesh"))
def _nearest(
    points: Float[Array, "point dim"],
    usable: Bool[Array, " point"],
    *,
    k: int,
    distance: str,
    low: bool,
    sizes: Sizes,
    mesh: Mesh | None,
) -> Neighbors:
    num_points = len(points)
    points = lax.stop_gradient(points).astype(jnp.float32)
    usable &= usable_points(points, distance=distance)
    devices = 1 if mesh is None else mesh.size
    padding = devices * sizes.padded(math.ceil(num_points / devices)) - num_points
    points = jnp.pad(points, ((0, padding), (0, 0)))
    usable = jnp.pad(usable, (0, padding))
    axes = () if mesh is None else mesh.axis_names
    search = partial(_search, k=k, distance=distance, low=low, sizes=sizes, axes=axes)
    if mesh is not None:
        split = PartitionSpec(axes)
        search = jax.shard_map(
            search, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
        )
    return jax.tree.map(lambda x: x[:num_points], search(points, usable))


def _search(
    points: Float[Array, "point dim"],
    usable: Bool[Array, " point"],
    *,
    k: int,
    distance: str,
    low: bool,
    sizes: Sizes,
    axes: tuple[str, ...],
) -> Neighbors:
    """Neighbours of one device's points, in indices of the points of all devices."""
    cloud = centred(points, usable, distance=distance, axes=axes)
    dim = points.shape[1]
    judge = partial(judged, cloud=cloud, k=k, distance=distance)
    slack: Float[Array, ""] | float = product_slack(dim, low=low)
    if low:
        # Both factors of a product are moved.
        slack += 2.02 * low_precision_loss(cloud, axes=axes)
    keys = keys_of(cloud, slack)
    if sizes.pairs:
        found = search_by_pairs(keys, sizes=sizes, low=low)
    else:
        found = search_in_turn(
            no_candidates(points, sizes.count),
            keys,
            order=jnp.arange(len(points), dtype=jnp.int32),
            blocks=math.ceil(len(points) / sizes.block),
            sizes=sizes,
            low=low,
            axes=axes,
        )
    verdict = judge(found, slack=slack)
    redone = verdict.unproven & low
    if low:
        verdict = _redo(verdict, found, cloud, judge=judge, sizes=sizes, axes=axes)
    return Neighbors(verdict.index, verdict.uncertain, ~usable, redone)


def _redo(
    verdict: Verdict,
    found: Candidates,
    cloud: Cloud,
    *,
    judge: Callable[..., Verdict],
    sizes: Sizes,
    axes: tuple[str, ...],
) -> Verdict:
    """The verdict, where it is unproven that on candidates by products of float32."""
    order = jnp.argsort(~verdict.unproven).astype(jnp.int32)
    unproven = jnp.sum(verdict.unproven, dtype=jnp.int32)
    blocks = (unproven + sizes.block - 1) // sizes.block
    # Whole blocks are searched for again.
    asked = jnp.arange(len(order), dtype=jnp.int32) < blocks * sizes.block
    again = jnp.zeros(len(order), bool).at[order].set(asked)
    slack = product_slack(cloud.points.shape[1], low=False)
    found = jax.tree.map(
        partial(jnp.where, again[:, None]), no_candidates(cloud.points, sizes.count), found
    )
    found = search_in_turn(
        found,
        keys_of(cloud, slack),
        order=order,
        blocks=blocks,
        sizes=sizes,
        low=False,
        axes=axes,
    )
    anew = judge(found, slack=slack)
    return Verdict(
        index=jnp.where(again[:, None], anew.index, verdict.index),
        uncertain=jnp.where(again, anew.uncertain, verdict.uncertain),
        unproven=jnp.where(again, anew.unproven, verdict.unproven),
    )
