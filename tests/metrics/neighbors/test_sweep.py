"""However the sweep goes, every two points meet once, and only what must travel does."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax.metrics import ilo, nearest
from ilo_jax.metrics.neighbors import sizes, sweep
from ilo_jax.metrics.neighbors.selection import Candidates, no_candidates
from ilo_jax.metrics.neighbors.sizes import Sizes
from ilo_jax.metrics.neighbors.sweep import Keys, search_by_pairs, search_in_turn
from ilo_jax.sharding import make_mesh
from tests.metrics import half_of_two
from tests.pairs import run_two

POINTS, DIM, COUNT = 48, 6, 7
MESH = make_mesh(data=8)
CUT = Sizes(count=COUNT, block=10, tile=2, chunks=1, pairs=0)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def some_keys() -> Keys:
    """A few of which must not be found."""
    points = normal(POINTS, DIM)
    bias = -np.sum(points**2, axis=1) / 2
    bias[[0, 20, 47]] = -np.inf
    return Keys(jnp.asarray(points), jnp.asarray(bias))


def check(found: Candidates, keys: Keys) -> None:
    """The nearest of each point, by numpy."""
    points, bias = (np.asarray(x, np.float64) for x in keys)
    total = points @ points.T + bias
    np.fill_diagonal(total, -np.inf)
    order = np.argsort(-total, axis=1)[:, :COUNT]
    np.testing.assert_array_equal(found.index, order)
    true = np.sum((points[order] - points[:, None]) ** 2, axis=2)
    np.testing.assert_allclose(found.squared, true, rtol=1e-5)


def in_turn(keys: Keys, cut: Sizes, *, axes: tuple[str, ...] = (), **given: Any) -> Candidates:
    count = len(keys.points)
    settings = {"order": jnp.arange(count), "blocks": -(-count // cut.block), "low": False}
    found = given.pop("found", no_candidates(keys.points, cut.count))
    return search_in_turn(found, keys, sizes=cut, axes=axes, **settings | given)


@pytest.mark.parametrize("cut", [CUT, CUT._replace(chunks=3), CUT._replace(chunks=4, block=48)])
def test_in_turn(cut):
    check(jax.jit(partial(in_turn, cut=cut))(some_keys()), some_keys())


@pytest.mark.parametrize("pairs", [pytest.param(3, marks=pytest.mark.slow), 5, 7])
def test_by_pairs(pairs):
    """Points that do not divide are padded by such as must not be found."""
    cut = CUT._replace(pairs=pairs)
    keys = some_keys()
    more = cut.padded(POINTS) - POINTS
    padded = Keys(
        jnp.pad(keys.points, ((0, more), (0, 0))),
        jnp.pad(keys.bias, (0, more), constant_values=-jnp.inf),
    )
    found = jax.jit(partial(search_by_pairs, sizes=cut, low=False))(padded)
    check(jax.tree.map(lambda x: x[:POINTS], found), keys)


@pytest.mark.parametrize("chunks", [1, 3])
def test_around_a_ring(chunks):
    """Of 6 points for each device, fewer than candidates."""
    split = PartitionSpec("data")
    cut = CUT._replace(chunks=chunks, block=4)
    search = jax.shard_map(
        partial(in_turn, cut=cut, axes=("data",)),
        mesh=MESH,
        in_specs=split,
        out_specs=split,
        check_vma=False,
    )
    check(jax.jit(search)(some_keys()), some_keys())


def test_some_points_only_are_searched_for():
    """Those of the first two blocks of the order; the others keep what they had."""
    keys = some_keys()
    order = np.random.default_rng(1).permutation(POINTS)
    asked = np.isin(np.arange(POINTS), order[:20])
    before = no_candidates(keys.points, COUNT)._replace(index=jnp.full((POINTS, COUNT), 99))
    found = jax.jit(partial(in_turn, cut=CUT))(
        keys, found=before, order=jnp.asarray(order), blocks=jnp.asarray(2)
    )
    whole = jax.jit(partial(in_turn, cut=CUT))(keys)
    np.testing.assert_array_equal(found.index[~asked], 99)
    np.testing.assert_array_equal(found.index[asked], whole.index[asked])


def test_earlier_candidates_stay_if_they_are_better():
    keys = some_keys()
    better = no_candidates(keys.points, COUNT)
    better = better._replace(
        score=better.score.at[:, 0].set(100), index=better.index.at[:, 0].set(1000)
    )
    found = jax.jit(partial(in_turn, cut=CUT))(keys, found=better)
    whole = jax.jit(partial(in_turn, cut=CUT))(keys)
    np.testing.assert_array_equal(found.index[:, 0], 1000)
    np.testing.assert_array_equal(found.index[:, 1:], whole.index[:, :-1])


@pytest.mark.parametrize(
    ("rows", "pairs"),
    [
        (1, 3),
        (3, 5),
        *(pytest.param(*others, marks=pytest.mark.slow) for others in ((4, 3), (2, 7), (2, 11))),
    ],
)
def test_any_two_points_meet_once(monkeypatch, rows, pairs):
    """Points are numbers, so that each table of scores says who meets."""
    points = rows * pairs
    met = np.zeros((points, points), int)

    def meet(queries: np.ndarray, keys: np.ndarray) -> None:
        np.add.at(met, np.ix_(queries[:, 0].astype(int), keys[:, 0].astype(int)), 1)

    scores = sweep.scores

    def counted(queries: jax.Array, keys: jax.Array) -> jax.Array:
        jax.debug.callback(meet, queries, keys)
        return scores(queries, keys)

    monkeypatch.setattr(sweep, "scores", counted)
    numbered = Keys(jnp.arange(points, dtype=jnp.float32)[:, None], jnp.zeros(points))
    cut = Sizes(count=2, block=1, tile=1, chunks=1, pairs=pairs)
    jax.block_until_ready(jax.jit(partial(search_by_pairs, sizes=cut, low=False))(numbered))
    jax.effects_barrier()
    same_block = np.arange(points)[:, None] // rows == np.arange(points)[None] // rows
    np.testing.assert_array_equal(met[same_block], 1)
    np.testing.assert_array_equal((met + met.T)[~same_block], 1)


@pytest.mark.parametrize(
    ("scale", "precision", "rounds"),
    [
        pytest.param(1, "exact", 1, marks=pytest.mark.slow),
        pytest.param(1, "fast", 1, marks=pytest.mark.slow),
        (0.01, "fast", 2),
    ],
)
def test_keys_leave_each_device_as_often_as_there_are_others(monkeypatch, scale, precision, rounds):
    """Once more if any point anywhere is searched for again."""
    left = []
    ppermute = jax.lax.ppermute

    def counted(keys: Keys, axes: tuple[str, ...], pairs: list[tuple[int, int]]) -> Keys:
        jax.debug.callback(lambda rank: left.append(int(rank)), jax.lax.axis_index(axes))
        return ppermute(keys, axes, pairs)

    monkeypatch.setattr(jax.lax, "ppermute", counted)
    points = normal(64, 64)
    points[40:] = points[40] + points[40:] * np.float32(scale)
    search = jax.jit(partial(nearest, k=2, mesh=MESH, precision=precision, tile=1 + rounds))
    found = jax.block_until_ready(search(jnp.asarray(points)))
    jax.effects_barrier()
    assert np.asarray(found.redone).any() == (rounds == 2)
    assert sorted(left) == sorted([*range(8)] * 7 * rounds)


def test_nothing_travels_but_the_keys_of_a_device_and_numbers():
    search = jax.jit(partial(nearest, k=5, mesh=MESH, precision="fast"))
    split = NamedSharding(MESH, PartitionSpec("data"))
    points = jax.ShapeDtypeStruct((400, 32), jnp.float32, sharding=split)
    program = search.lower(points).compile().as_text() or ""
    pattern = r"= (\(.*?\)|\S+?)(?:{[\d,]*})? ((?:collective|all|ragged)-[a-z-]+|reduce-scatter)\("
    moved = sorted((kind, shape) for shape, kind in re.findall(pattern, program))
    # Once by bfloat16, once by float32 for what is redone.
    keys = [("collective-permute", shape) for shape in ("f32[50]", "f32[50,32]") * 2]
    # Three means for the centre, and two distances of each point from it.
    means = ("f32[32]", "s32[]") * 3
    sums = [("all-reduce", shape) for shape in (*means, "f32[]", "s32[]")]
    distances = [("all-gather", "f32[400]")] * 2
    assert moved == sorted([*keys, *sums, *distances])


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(None, id="one device", marks=pytest.mark.slow),
        pytest.param(MESH, id="8 devices"),
    ],
)
def test_keys_in_chunks_are_the_same_keys(monkeypatch, mesh):
    points = jnp.asarray(normal(131, 9))
    whole = nearest(points, k=5, mesh=mesh)
    monkeypatch.setattr(sizes, "_CPU_ELEMENTS", 1000 if mesh else 4000)
    cut = sizes.sizes_for(
        points.shape, k=5, low=False, mesh=mesh, symmetric=None, block=None, tile=None
    )
    assert cut.chunks > 1
    jax.tree.map(np.testing.assert_array_equal, nearest(points, k=5, mesh=mesh), whole)
    assert not whole.uncertain.any()


@pytest.mark.slow
def test_two_processes_find_what_one_does_and_send_their_keys_only(tmp_path):
    outputs = [tmp_path / "first.npz", tmp_path / "second.npz"]
    ended = run_two(Path(half_of_two.__file__), *([str(output)] for output in outputs))
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    lang, sent, dim = half_of_two.LANG, half_of_two.SENT, half_of_two.DIM
    states = jnp.asarray(half_of_two.states((slice(None), slice(None))))
    neighbors = nearest(states.reshape(-1, dim), k=half_of_two.K)
    scores = ilo(states, k=half_of_two.K)
    for output in outputs:
        with np.load(output) as found:
            for precision in ("exact", "fast"):
                certain = ~(found[f"{precision} uncertain"] | neighbors.uncertain)
                assert certain.mean() >= 0.99
                index = found[f"{precision} index"]
                np.testing.assert_array_equal(index[certain], neighbors.index[certain])
            again = found["fast redone"].reshape(lang, sent).sum(axis=1)
            assert again[-1] > 0
            np.testing.assert_array_equal(found["score redone"], again)
            np.testing.assert_array_equal(found["exact redone"], False)
            np.testing.assert_array_equal(found["score reach"], scores.reach)
            changed = np.abs(found["score bridge"] - scores.bridge) * sent
            assert (changed <= np.asarray(scores.uncertain) + 1e-3).all()
    # Of the ring's eight links two go from one process to the other, but on CPUs the devices of
    # one process, too, speak to each other over the loopback once there is another process.
    crossing = 8 * 7 * lang * sent // 8 * (dim + 1) * 4
    for process in ended:
        crossed = json.loads(process.stdout.splitlines()[-1])
        assert crossing <= crossed["exact"] <= 1.1 * crossing
        assert 2 * crossing <= crossed["fast"] <= 1.1 * 2 * crossing
