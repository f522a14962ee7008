"""How a search is cut up, chosen from its shape and device; none of it changes a result."""

import math
from typing import NamedTuple

import jax
from jax.sharding import Mesh

# Of each temporary array, in elements of 4 bytes. On TPUs of the scores only, so that they need not
# leave the 128 MiB which v5e and v6e have beside their matrix units.
_CPU_ELEMENTS, _TPU_ELEMENTS, _ELEMENTS = 2**25, 2**24, 2**28
_CPU_BLOCK, _BLOCK = 256, 2048
# Below it, products are slower than they need be: rather are the keys taken in chunks. A v5e does
# 240 operations while it reads a byte, so that it needs more queries than that to be kept busy.
_LEAST_BLOCK, _TPU_LEAST_BLOCK = 64, 256
# Of a TPU; other devices are not the worse for whole ones.
_VECTOR = 128
# Coordinates of candidates, up to which all of a query are measured at a time; all on GPUs.
_TOGETHER = {"cpu": 2**22, "tpu": 0}


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
    counted: bool = False
    """Whether the maxima of bins and a count select the candidates, instead of two stages."""
    together: bool = True
    """Whether all candidates of a query are measured at a time, instead of one."""

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
    platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    count = min(candidates(k, low=low), shape[0])
    if symmetric is None:
        symmetric = mesh is None and platform == "cpu" and pairs_pay(points, dim, low=low)
    elements, most, least = _limits(platform)
    chunks = 1 if symmetric else math.ceil(least * points / elements)
    counted = platform == "tpu" and not symmetric and tile is None
    rows = (block or max(1024, min(4096, 2 * elements // points))) if symmetric else 0
    width = math.ceil(points / chunks)
    if platform != "tpu":
        width = max(width, count * dim)
    block = min(block or max(1, min(most, _even(elements // width))), points)
    staged = 16 if symmetric else max(1, math.isqrt(points // chunks // count // 16))
    return Sizes(
        count=count,
        block=block,
        tile=tile or (1 if counted else staged),
        chunks=chunks,
        pairs=max(3, math.ceil(points / rows) | 1) if rows else 0,
        counted=counted,
        together=block * count * dim <= _TOGETHER.get(platform, math.inf),
    )


def _limits(platform: str) -> tuple[int, int, int]:
    """Elements of a temporary array, queries of a block at most, and at least."""
    if platform == "cpu":
        return _CPU_ELEMENTS, _CPU_BLOCK, _LEAST_BLOCK
    if platform == "tpu":
        return _TPU_ELEMENTS, _BLOCK, _TPU_LEAST_BLOCK
    return _ELEMENTS, _BLOCK, _LEAST_BLOCK


def _even(rows: int) -> int:
    """Queries in whole vectors, if they are more than one."""
    return rows - rows % _VECTOR if rows > _VECTOR else rows


def candidates(k: int, *, low: bool) -> int:
    """How many candidates let k neighbours be proven, for nearly all points of real states.

    k + 1 decide; the others show how far away the rest are. Where they lie so close together that
    this is not enough, the point is searched for again, or is uncertain.
    """
    return k + 6 + (k if low else k // 4)


def pairs_pay(points: int, dim: int, *, low: bool) -> bool:
    """Whether half the products cost more than the sorting that the search by pairs adds."""
    return points >= 8192 and dim >= (768 if low else 384)
