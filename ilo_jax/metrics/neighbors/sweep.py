"""Candidates of points among all points: block by block, by pairs of blocks, around a ring.

Nothing here is as large as N x N: of the scores, those of one block of queries are held at a time.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ilo_jax.metrics.neighbors.cloud import Cloud
from ilo_jax.metrics.neighbors.counted import best_keys_counted
from ilo_jax.metrics.neighbors.selection import (
    Candidates,
    best_keys,
    best_queries,
    measured,
    merged,
    no_candidates,
    scores,
)
from ilo_jax.metrics.neighbors.sizes import Sizes


class Keys(NamedTuple):
    """Points to be found."""

    points: Float[Array, "key dim"]
    """In float32, or in bfloat16 for products only."""
    bias: Float[Array, " key"]
    """What is added to a product with the key; -inf for one that must not be found."""


Some = TypeVar("Some", Keys, Candidates)
Carry = TypeVar("Carry")


def keys_of(cloud: Cloud, slack: Float[Array, ""] | float) -> Keys:
    """The points of a cloud as keys; `slack` is that of `judged`."""
    # The key's half of the slack goes into its score, the query's into the floor of `judged`.
    bias = jnp.where(cloud.usable, (slack - 1) / 2 * cloud.squared_norm, -jnp.inf)
    return Keys(cloud.points, bias)


def _lowered(points: Float[Array, "point dim"], *, low: bool) -> Float[Array, "point dim"]:
    return points.astype(jnp.bfloat16) if low else points


def _bits(keys: Keys, *, low: bool) -> Array:
    """Points in float32, or the bits of bfloat16.

    XLA on CPUs holds bfloat16 as float32 wherever it is joined or cut, but not its bits.
    """
    points = _lowered(keys.points, low=low)
    return lax.bitcast_convert_type(points, jnp.uint16) if low else points


def _part(arrays: Some, first: Int[Array, ""] | int, size: int) -> Some:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, size), arrays)


def _repeated(
    times: Int[Array, ""] | int, body: Callable[[Int[Array, ""], Carry], Carry], start: Carry
) -> Carry:
    """What is left after `body` has seen 0, 1, ... in turn, in int32 as all indices."""
    return lax.fori_loop(0, times, lambda number, x: body(jnp.asarray(number, jnp.int32), x), start)


def _best_keys(
    queries: Float[Array, "query dim"], keys: Keys, own: Int[Array, " query"], *, sizes: Sizes
) -> Candidates:
    if sizes.counted:
        return best_keys_counted(queries, keys.points, keys.bias, own, count=sizes.count)
    score = scores(queries, keys.points)
    return best_keys(score, keys.bias, own, count=sizes.count, tile=sizes.tile)


def search_in_turn(
    found: Candidates,
    keys: Keys,
    *,
    order: Int[Array, " query"],
    blocks: Int[Array, ""] | int,
    sizes: Sizes,
    low: bool,
    axes: tuple[str, ...] = (),
) -> Candidates:
    """Candidates of points, beside those they had before, among the points of all devices.

    The keys travel from each device to the next while the products with those already there run:
    (devices - 1) times the points of a device leave it.

    Args:
        found: Other candidates of each point, if it has any.
        keys: The points of this device.
        order: Which of them to search for first.
        blocks: How many blocks to search for; may be another number on each device.
        sizes: Of blocks, tiles and chunks.
        low: Whether to propose by products of bfloat16.
        axes: Of the mesh, over which the points are split where this runs under `jax.shard_map`.
    """
    queries = keys.points
    num_keys = len(queries)
    width = num_keys // sizes.chunks
    # Whole blocks only: the last point again fills them.
    order = jnp.pad(order, (0, -len(order) % sizes.block), mode="edge")
    devices = lax.axis_size(axes) if axes else 1
    rank = lax.axis_index(axes) if axes else 0

    def visit(found: Candidates, keys: Keys, step: Int[Array, ""] | int) -> Candidates:
        start = (rank - step) % devices * num_keys

        def chunk(number: Int[Array, ""] | int, found: Candidates) -> Candidates:
            part = _part(keys, number * width, width)
            low_part = _lowered(part.points, low=low)
            first = start + number * width

            def block(number: Int[Array, ""], found: Candidates) -> Candidates:
                places = lax.dynamic_slice_in_dim(order, number * sizes.block, sizes.block)
                asking = queries[places]
                more = _best_keys(
                    _lowered(asking, low=low),
                    Keys(low_part, part.bias),
                    rank * num_keys + places - first,
                    sizes=sizes,
                )
                more = measured(more, asking, part.points, together=sizes.together)
                more = more._replace(index=more.index + first)
                both = merged(jax.tree.map(lambda x: x[places], found), more)
                return jax.tree.map(lambda x, y: x.at[places].set(y), found, both)

            return _repeated(blocks, block, found)

        return _repeated(sizes.chunks, chunk, found) if sizes.chunks > 1 else chunk(0, found)

    def step(number: Int[Array, ""], carry: tuple[Candidates, Keys]) -> tuple[Candidates, Keys]:
        found, here = carry
        coming = lax.ppermute(here, axes, [(i, (i + 1) % devices) for i in range(devices)])
        return visit(found, here, number), coming

    if devices > 1:
        steps = devices - 1
        if not isinstance(blocks, int):
            # Nothing travels where no device has anything to search for.
            steps = jnp.where(lax.pmax(blocks, axes) > 0, steps, 0)
        found, keys = _repeated(steps, step, (found, keys))
    return visit(found, keys, devices - 1)


def search_by_pairs(keys: Keys, *, sizes: Sizes, low: bool) -> Candidates:
    """Candidates of all points, from half the products that `search_in_turn` takes.

    Each block of points meets the next half of all blocks, the first following the last, and the
    scores serve both its points and theirs. The number of blocks is odd, so that any two of them
    meet once.
    """
    points = len(keys.points)
    rows = points // sizes.pairs
    wide = (sizes.pairs + 1) // 2 * rows
    # From any block on, the next half without a break.
    around = jax.tree.map(
        lambda x: jnp.concatenate([x, x[:wide]]), (_bits(keys, low=low), keys.bias)
    )
    select = {"count": sizes.count, "tile": sizes.tile}

    def block(number: Int[Array, ""], found: Candidates) -> Candidates:
        first = number * rows
        bits, bias = (lax.dynamic_slice_in_dim(x, first, wide) for x in around)
        part = lax.bitcast_convert_type(bits, jnp.bfloat16) if low else bits
        score = scores(part[:rows], part)
        after = best_keys(score, bias, jnp.arange(rows, dtype=jnp.int32), **select)
        after = after._replace(index=(after.index + first) % points)
        before = best_queries(score, bias[:rows], skip=rows, **select)
        before = before._replace(index=before.index + first)
        met = merged(_part(found, 0, rows), after)
        meeting = merged(_part(found, rows, wide - rows), before)
        # The next block comes first.
        parts = zip(meeting, found, met, strict=True)
        return Candidates(*(jnp.concatenate([a, b[wide:], c]) for a, b, c in parts))

    found = _repeated(sizes.pairs, block, no_candidates(keys.points, sizes.count))
    return _measured_in_blocks(found, keys, sizes=sizes)


def _measured_in_blocks(found: Candidates, keys: Keys, *, sizes: Sizes) -> Candidates:
    block = sizes.block

    def one(number: Int[Array, ""], found: Candidates) -> Candidates:
        # The last block begins earlier if it would not be whole; nothing changes by doing it twice.
        start = jnp.minimum(number * block, len(keys.points) - block)
        asking = _part(keys, start, block).points
        part = _part(found, start, block)
        part = measured(part, asking, keys.points, together=sizes.together)
        return jax.tree.map(
            lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0), found, part
        )

    return _repeated(math.ceil(len(keys.points) / block), one, found)
