"""Neighbours against float64; `uncertain` must cover all that rounding could change."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.metrics import Neighbors, nearest

POINTS, DIM, K = 400, 32, 5
DISTANCES = ["cosine", "euclidean"]


def distances(points: np.ndarray, distance: str) -> np.ndarray:
    """From every point to every other, in float64; inf to itself."""
    points = points.astype(np.float64)
    if distance == "cosine":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    table = np.array([np.linalg.norm(points - point, axis=1) for point in points])
    np.fill_diagonal(table, np.inf)
    return table


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def duplicated() -> np.ndarray:
    points = normal(POINTS, DIM)
    copies = np.random.default_rng(1).choice(POINTS, size=(2, POINTS * 3 // 10))
    points[copies[0]] = points[copies[1]]
    return points


def outlying() -> np.ndarray:
    points = normal(POINTS, DIM)
    points[7] *= 1e4
    return points


def shells() -> np.ndarray:
    """Points around centres, all as far away but for the last bits."""
    rng = np.random.default_rng(2)
    centres = normal(20, 1, DIM)
    around = rng.permuted(np.tile(normal(DIM), (20, 19, 1)), axis=2)
    around *= rng.choice([-1, 1], around.shape) * (1 + 1e-6 * rng.standard_normal((20, 19, 1)))
    return np.concatenate([centres, centres + around * 0.1], axis=1).reshape(POINTS, DIM)


CASES = {
    "gaussian": normal(POINTS, DIM),
    "common direction": normal(POINTS, DIM) * 0.01 + normal(DIM, seed=1) * 3,
    "nearly parallel": normal(POINTS, DIM) * 1e-4 + normal(DIM, seed=1),
    "duplicates": duplicated(),
    "lattice": np.round(normal(POINTS, DIM)).clip(-1, 1) + np.eye(DIM, dtype=np.float32)[0] * 2,
    "widely varying norms": normal(POINTS, DIM) * np.exp(normal(POINTS, 1, seed=1)),
    "outlier": outlying(),
    "tight clusters": np.repeat(normal(20, DIM), 20, axis=0) + normal(POINTS, DIM) * 1e-5,
    "clusters within rounding": np.repeat(normal(20, DIM), 20, axis=0)
    * (1 + 1e-7 * normal(POINTS, 1)),
    "shells": shells().astype(np.float32),
    "few values": np.round(normal(POINTS, DIM) * 4) / 4,
    "tiny numbers": normal(POINTS, DIM) * np.float32(1e-30),
    "huge numbers": normal(POINTS, DIM) * np.float32(1e30),
    "one dimension": np.abs(normal(POINTS, 1)) + 1,
    "two dimensions": normal(POINTS, 2),
    "more dimensions than points": normal(40, 300),
    "three points more than neighbours": normal(K + 3, 4),
}


def check(points: np.ndarray, found: Neighbors, distance: str, *, k: int = K) -> None:
    """Certain points have exactly the true neighbours; ties are never certain."""
    true = distances(points, distance)
    order = np.argsort(true, axis=1)
    for i, (index, uncertain) in enumerate(zip(found.index, found.uncertain, strict=True)):
        assert i not in index
        assert len({*index.tolist()}) == k
        if not uncertain:
            assert {*index.tolist()} == {*order[i, :k].tolist()}
        tied = true[i, order[i, k]] - true[i, order[i, k - 1]] <= 1e-14 * true[i, order[i, k]]
        assert not tied or uncertain
    np.testing.assert_array_equal(found.unusable, False)


def same(found: Neighbors, other: Neighbors, *, least: float = 0.9) -> None:
    """The same neighbours where both are certain, and both are mostly certain."""
    certain = ~np.asarray(found.uncertain | other.uncertain)
    assert certain.mean() >= least
    np.testing.assert_array_equal(
        np.sort(found.index[certain], axis=1), np.sort(other.index[certain], axis=1)
    )
    np.testing.assert_array_equal(found.unusable, other.unusable)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("points", CASES.values(), ids=CASES)
def test_against_the_definition(points, distance):
    check(points, nearest(jnp.asarray(points), k=K, distance=distance), distance)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    "name", ["gaussian", "common direction", "widely varying norms", "outlier"]
)
def test_most_points_are_certain(name, distance):
    found = nearest(jnp.asarray(CASES[name]), k=K, distance=distance)
    assert found.uncertain.mean() <= 0.01


def test_few_points_of_many_dimensions_are_uncertain():
    found = nearest(jnp.asarray(normal(2000, 1024)), k=K)
    assert found.uncertain.mean() <= 0.01


@pytest.mark.parametrize("k", [1, POINTS - 2])
def test_other_counts_of_neighbours(k):
    points = CASES["gaussian"]
    check(points, nearest(jnp.asarray(points), k=k), "cosine", k=k)


def test_all_others_are_certain_neighbours():
    found = nearest(jnp.zeros((4, 2)), k=3, distance="euclidean")
    np.testing.assert_array_equal(found.uncertain, False)
    others = [[j for j in range(4) if j != i] for i in range(4)]
    np.testing.assert_array_equal(np.sort(found.index, axis=1), others)


def test_neighbours_come_nearest_first():
    points = CASES["gaussian"]
    index = np.asarray(nearest(jnp.asarray(points), k=K, distance="euclidean").index)
    found = np.take_along_axis(distances(points, "euclidean"), index, axis=1)
    assert (np.diff(found, axis=1) >= 0).all()


def test_coincident_points_are_no_neighbours_of_themselves():
    points = np.repeat(normal(3, 4), 6, axis=0)
    found = nearest(jnp.asarray(points), k=5)
    np.testing.assert_array_equal(found.uncertain, False)
    np.testing.assert_array_equal(
        np.sort(found.index, axis=1),
        [[j for j in range(i // 6 * 6, i // 6 * 6 + 6) if j != i] for i in range(18)],
    )


@pytest.mark.parametrize("block", [1, 64, 1000])
@pytest.mark.parametrize("name", ["common direction", "duplicates"])
def test_blocks_change_nothing(block, name):
    points = jnp.asarray(CASES[name])
    same(nearest(points, k=K), nearest(points, k=K, block=block), least=0.6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_order_changes_nothing(distance):
    points = jnp.asarray(CASES["gaussian"])
    order = np.random.default_rng(1).permutation(POINTS)
    found = nearest(points[order], k=K, distance=distance)
    back = np.argsort(order)
    renamed = Neighbors(order[found.index][back], found.uncertain[back], found.unusable[back])
    same(renamed, nearest(points, k=K, distance=distance))


def test_scale_changes_nothing_under_cosine():
    points = CASES["gaussian"]
    scale = np.exp(20 * normal(POINTS, 1, seed=1)).astype(np.float32)
    same(nearest(jnp.asarray(points * scale), k=K), nearest(jnp.asarray(points), k=K))


def test_translation_and_scale_change_nothing_under_euclidean():
    points = np.round(CASES["gaussian"] * 1024) / 1024
    found = nearest(jnp.asarray(points), k=K, distance="euclidean")
    for moved in (points + 100, points * 1e-20):
        same(found, nearest(jnp.asarray(moved), k=K, distance="euclidean"))


UNUSABLE = {
    "nan": np.full((3, DIM), np.nan),
    "one infinity": np.where(np.arange(DIM) == 3, np.inf, normal(3, DIM)),
    "zero": np.zeros((3, DIM)),
    "subnormal": np.full((3, DIM), 1e-39),
    "huge, left out by the caller": np.full((3, DIM), 1e30),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_points_count_as_dropped(name, distance):
    points = CASES["common direction"]
    places = [0, 17, POINTS]
    rows = np.insert(points, places, UNUSABLE[name], axis=0).astype(np.float32)
    unusable = np.insert(np.zeros(POINTS, bool), places, True)
    usable = jnp.asarray(~unusable)
    by_caller = name.startswith("huge") or distance == "euclidean"
    found = nearest(jnp.asarray(rows), k=K, distance=distance, usable=usable if by_caller else None)
    np.testing.assert_array_equal(found.unusable, unusable)
    np.testing.assert_array_equal(found.index[unusable], -1)
    np.testing.assert_array_equal(found.uncertain[unusable], False)
    kept = np.flatnonzero(~unusable)
    dropped = nearest(jnp.asarray(points), k=K, distance=distance)
    np.testing.assert_array_equal(found.index[kept], kept[dropped.index])
    np.testing.assert_array_equal(found.uncertain[kept], dropped.uncertain)


def test_zero_is_a_point_under_euclidean_distance():
    found = nearest(jnp.zeros((7, 3)).at[0, 0].set(jnp.nan), k=2, distance="euclidean")
    np.testing.assert_array_equal(found.unusable, [True] + [False] * 6)
    np.testing.assert_array_equal(found.uncertain, [False] + [True] * 6)


@pytest.mark.parametrize("left", [0, 1, 5, 6])
def test_too_few_usable_points_have_no_neighbours(left):
    points = jnp.asarray(normal(9, 3)).at[left:].set(jnp.nan)
    found = nearest(points, k=5)
    assert (np.asarray(found.index) >= 0).sum() == (6 * 5 if left == 6 else 0)
    assert not found.uncertain.any()
    assert found.unusable.sum() == 9 - left


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_are_computed_in_float32(dtype):
    points = jnp.asarray(CASES["gaussian"]).astype(dtype)
    found, wide = nearest(points, k=K), nearest(points.astype(jnp.float32), k=K)
    jax.tree.map(np.testing.assert_array_equal, found, wide)


@pytest.mark.parametrize(
    "transform", [jax.vmap, partial(partial, jax.lax.map)], ids=["vmap", "map"]
)
def test_under_the_transforms_of_jax(transform):
    states = jnp.asarray(normal(2, 60, DIM))
    search = partial(nearest, k=K, block=16)
    found = jax.jit(transform(search))(states)
    for layer, one in enumerate(states):
        same(Neighbors(*(field[layer] for field in found)), search(one))


def test_the_gradient_is_stopped():
    points = jnp.asarray(normal(8, 3))
    _, tangent = jax.jvp(lambda p: nearest(p, k=2).index * jnp.ones(()), (points,), (points,))
    np.testing.assert_array_equal(tangent, 0)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


ERRORS = [
    ({"k": 0}, "k must be in [1, 119] for 120 points, got 0"),
    ({"k": 500}, "k must be in [1, 119] for 120 points, got 500"),
    ({"k": 120}, "k must be in [1, 119] for 120 points, got 120"),
    ({"k": 2, "distance": "dot"}, "distance must be one of cosine, euclidean, got 'dot'"),
    ({"k": 2, "block": 0}, "block must be at least 1, got 0"),
    (
        {"k": -1, "distance": "dot", "block": -3},
        "k must be in [1, 119] for 120 points, got -1; "
        "distance must be one of cosine, euclidean, got 'dot'; "
        "block must be at least 1, got -3",
    ),
]


@pytest.mark.parametrize(("settings", "message"), ERRORS, ids=lambda v: str(v)[:40])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=exactly(message)):
        nearest(jnp.zeros((120, 2)), **settings)
