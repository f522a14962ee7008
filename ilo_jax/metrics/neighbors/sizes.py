"""How a search is cut up, chosen from its shape and device; none of it changes a result."""

import math
from typing import NamedTuple

import jax
from jax.sharding import Mesh

# Of each temporary array, in elements of 4 bytes.
_CPU_ELEMENTS, _ELEMENTS = 2**25, 2**28
_CPU_BLOCK, _BLOCK = 256, 2048
# Below it, products are slower than they need be: rather are the keys taken in chunks.
_LEAST_BLOCK = 64


class Sizes(NamedTuple):
    """How a search is cut up."""

    count: int
    """Candidates of each point."""
    block: int
    """Queries whose scores are held at a time."""
    tile: int
    """Scores that share a maximum."""
    chunks: int
    """Parts of the keys, the scores of one of which are held at a time."""
    pairs: int
    """Number of blocks of the search by pairs, which is odd; 0 for the search in turn."""

    def padded(self, points: int) -> int:
        """The number of points to make of these, so that all cuts come out even."""
        even = self.tile * (self.pairs or self.chunks)
        return even * math.ceil(points / even)


def sizes_for(
    shape: tuple[int, ...],
    *,
    k: int,
    low: bool,
    mesh: Mesh | None,
    symmetric: bool | None,
    block: int | None,
    tile: int | None,
) -> Sizes:
    """What suits points of a shape on the devices they are searched on.

    Args:
        shape: "point dim".
        k: Number of neighbours.
        low: Whether products of bfloat16 propose.
        mesh: The devices; None for the default one.
        symmetric: Whether to search by pairs; None to decide.
        block: The block to take; None to decide.
        tile: The tile to take; None to decide.
    """
    devices = 1 if mesh is None else mesh.size
    points, dim = math.ceil(shape[0] / devices), shape[1]
    cpu = (mesh.devices.flat[0].platform if mesh else jax.default_backend()) == "cpu"
    most, elements = (_CPU_BLOCK, _CPU_ELEMENTS) if cpu else (_BLOCK, _ELEMENTS)
    count = min(candidates(k, low=low), shape[0])
    if symmetric is None:
        symmetric = mesh is None and cpu and pairs_pay(points, dim, low=low)
    chunks = 1 if symmetric else math.ceil(_LEAST_BLOCK * points / elements)
    fitting = elements // max(math.ceil(points / chunks), count * dim)
    rows = 0
    if symmetric:
        tile = tile or 16
        rows = block or max(1024, min(4096, 2 * elements // points))
    return Sizes(
        count=count,
        block=min(block or max(1, min(most, fitting)), points),
        tile=tile or max(1, math.isqrt(points // chunks // count // 16)),
        chunks=chunks,
        pairs=max(3, math.ceil(points / rows) | 1) if rows else 0,
    )


def candidates(k: int, *, low: bool) -> int:
    """How many candidates let k neighbours be proven, for nearly all points of real states.

    k + 1 decide; the others show how far away the rest are. Where they lie so close together that
    this is not enough, the point is searched for again, or is uncertain.
    """
    return k + 6 + (k if low else k // 4)


def pairs_pay(points: int, dim: int, *, low: bool) -> bool:
    """Whether half the products cost more than the sorting that the search by pairs adds."""
    return points >= 8192 and dim >= (768 if low else 384)
