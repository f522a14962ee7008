"""Whatever the shape, the cuts come out even and no temporary array is too large."""

import math
from typing import Any

import jax
import pytest
from jax.sharding import Mesh

from ilo_jax.metrics.neighbors import sizes
from ilo_jax.metrics.neighbors.sizes import Sizes, candidates, sizes_for
from ilo_jax.sharding import make_mesh

MESHES = {"one device": None, "2 devices": make_mesh(data=2), "4x2": make_mesh(data=4, model=2)}
SHAPES = [(2, 1), (3, 5), (397, 32), (8192, 384), (30907, 4096), (409836, 768), (2**30, 64)]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_meshes = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)


def chosen(shape: tuple[int, int], *, k: int = 1, **settings: Any) -> Sizes:
    absent = dict.fromkeys(("mesh", "symmetric", "block", "tile"))
    given: dict[str, Any] = {"low": False, **absent, **settings}
    return sizes_for(shape, k=k, **given)


def share(shape: tuple[int, int], mesh: Mesh | None) -> int:
    return math.ceil(shape[0] / (mesh.size if mesh else 1))


@over_shapes
@over_meshes
@pytest.mark.parametrize("low", [False, True])
def test_no_temporary_array_is_larger_than_the_limit(shape, mesh, low):
    for k in {1, min(5, shape[0] - 1), min(64, shape[0] - 1)}:
        cut = chosen(shape, k=k, low=low, mesh=mesh, symmetric=False)
        keys = cut.padded(share(shape, mesh)) // cut.chunks
        least = cut.block == 1
        assert cut.block * keys <= 2**25 + cut.block * cut.tile or least
        assert cut.block * cut.count * shape[1] <= 2**25 or least


@over_shapes
@over_meshes
def test_all_cuts_are_even(shape, mesh):
    for settings in ({}, {"tile": 1}, {"tile": 7, "block": 3}, {"symmetric": mesh is None}):
        cut = chosen(shape, mesh=mesh, **settings)
        padded = cut.padded(share(shape, mesh))
        assert 0 <= padded - share(shape, mesh) < cut.tile * max(cut.pairs, cut.chunks)
        parts = cut.pairs or cut.chunks
        assert padded % parts == 0
        assert padded // parts % cut.tile == 0
        assert 1 <= cut.block <= padded


@over_shapes
@pytest.mark.parametrize("block", [None, 1, 57, 10**6])
def test_the_number_of_blocks_that_meet_in_pairs_is_odd(shape, block):
    if block == 1 and shape[0] > 10**5:
        block = 1000
    cut = chosen(shape, symmetric=True, block=block)
    assert cut.pairs % 2 == 1
    assert cut.pairs >= 3
    if block and shape[0] > 3 * block:
        assert math.ceil(shape[0] / cut.pairs) <= block
    assert chosen(shape, symmetric=False).pairs == 0


def test_pairs_are_kept_to_one_device():
    assert chosen((30907, 4096)).pairs
    assert not chosen((30907, 4096), mesh=MESHES["2 devices"]).pairs
    assert not chosen((30907, 64)).pairs
    assert not chosen((397, 4096)).pairs


@pytest.mark.parametrize("low", [False, True])
def test_there_is_a_candidate_more_than_neighbours(low):
    for k in (1, 2, 5, 16, 64, 1000):
        assert candidates(k, low=low) > k
        assert chosen((k + 1, 8), k=k, low=low).count == k + 1
    assert candidates(5, low=True) > candidates(5, low=False)


def test_keys_come_in_chunks_where_they_leave_too_few_queries(monkeypatch):
    assert chosen((409836, 768)).chunks == 1
    assert chosen((2**20, 64)).chunks == 2
    monkeypatch.setattr(sizes, "_CPU_ELEMENTS", 2**10)
    cut = chosen((64, 2))
    assert cut.chunks == 4
    assert cut.block <= 2**10 // (64 // 4)


def test_accelerators_take_more_at_a_time(monkeypatch):
    on_cpu = chosen((30907, 512))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cut = chosen((30907, 512))
    assert cut.pairs == 0
    assert cut.block == 2048
    assert on_cpu.block <= 256


@over_shapes
@pytest.mark.parametrize("low", [False, True])
def test_tpus_hold_few_scores_and_select_by_bins(monkeypatch, shape, low):
    """Whole vectors of queries, and enough of them to keep the matrix units busy."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    cut = chosen(shape, low=low)
    assert cut.counted
    assert not cut.together
    assert cut.pairs == 0
    assert cut.block * math.ceil(shape[0] / cut.chunks) <= 2**24
    assert cut.block == shape[0] or (cut.block >= 256 and cut.block % 128 == 0)
    assert cut.padded(shape[0]) - shape[0] < cut.chunks


def test_who_gives_a_tile_or_asks_for_pairs_gets_staged_selection_on_tpus(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not chosen((30907, 512), tile=8).counted
    assert chosen((30907, 512), tile=8).tile == 8
    assert not chosen((30907, 512), symmetric=True).counted


def test_cpus_measure_one_candidate_at_a_time_where_all_are_long(monkeypatch):
    assert not any(chosen(shape).counted for shape in SHAPES)
    assert chosen((30907, 384)).together
    assert not chosen((30907, 4096)).together
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen((30907, 4096)).together
    assert not chosen((30907, 4096)).counted
