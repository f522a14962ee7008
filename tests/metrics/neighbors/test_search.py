"""Neighbours against float64; `uncertain` must cover all that rounding could change.

However a search is cut up, and whatever its products are made of, the same must come out.
"""

import logging
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax.metrics import Neighbors, ilo, nearest
from ilo_jax.metrics.neighbors.sizes import candidates
from ilo_jax.sharding import make_mesh

# A prime: no block, tile or number of devices divides it.
POINTS, DIM, K = 397, 32, 5
DISTANCES = ["cosine", "euclidean"]
MESH = make_mesh(data=8)
# Each with one distance only, for every shape is compiled for each of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "by pairs": {"distance": "euclidean", "symmetric": True, "block": 70},
    "fast": {"distance": "cosine", "precision": "fast", "block": 64},
    "fast by pairs": {
        "distance": "cosine",
        "precision": "fast",
        "symmetric": True,
        "block": 57,
        "tile": 7,
    },
    "8 devices": {"distance": "cosine", "mesh": MESH, "block": 7},
    "8 devices, fast": {"distance": "euclidean", "precision": "fast", "mesh": MESH},
}
FAST = [name for name in VARIANTS if "fast" in name]
variants = pytest.mark.parametrize("variant", VARIANTS)


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


def anisotropic() -> np.ndarray:
    """Points whose mean cosine is 0.9998, as of a transformer's states."""
    spread = np.exp(-np.arange(DIM, dtype=np.float32) / 8)
    points = normal(POINTS, DIM) * spread
    common = normal(DIM, seed=1)
    return points + common * np.linalg.norm(spread) / np.linalg.norm(common) / np.sqrt(2e-4)


def clusters(first: int = 0) -> np.ndarray:
    """Twenties of points, from the first one on, that only bfloat16 cannot tell apart."""
    points = normal(POINTS, DIM)
    centres = np.repeat(normal(20, DIM, seed=1), 20, axis=0)[:POINTS]
    points[first:] = (centres + points * 0.01)[first:]
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
    return np.concatenate([centres, centres + around * 0.1], axis=1).reshape(400, DIM)[:POINTS]


CASES = {
    "gaussian": normal(POINTS, DIM),
    "common direction": normal(POINTS, DIM) * 0.01 + normal(DIM, seed=1) * 3,
    "anisotropic": anisotropic().astype(np.float32),
    "nearly parallel": normal(POINTS, DIM) * 1e-4 + normal(DIM, seed=1),
    "duplicates": duplicated(),
    "lattice": np.round(normal(POINTS, DIM)).clip(-1, 1) + np.eye(DIM, dtype=np.float32)[0] * 2,
    "widely varying norms": normal(POINTS, DIM) * np.exp(normal(POINTS, 1, seed=1)),
    "outlier": outlying(),
    "clusters": clusters(),
    "clusters in the last third": clusters(first=270),
    "tight clusters": np.repeat(normal(20, DIM), 20, axis=0)[:POINTS] + normal(POINTS, DIM) * 1e-5,
    "clusters within rounding": np.repeat(normal(20, DIM), 20, axis=0)[:POINTS]
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
# Every other is a shape more to compile.
OF_ONE_SHAPE = [
    name if len(points) == POINTS else pytest.param(name, marks=pytest.mark.slow)
    for name, points in CASES.items()
]
FEW_UNCERTAIN = ["gaussian", "common direction", "anisotropic", "widely varying norms", "outlier"]


def check(points: np.ndarray, found: Neighbors, distance: str, *, k: int = K) -> None:
    """Certain points have exactly the true neighbours; ties are never certain."""
    found = jax.device_get(found)
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


def search(points: np.ndarray, variant: str, **settings: Any) -> Neighbors:
    given: dict[str, Any] = {"k": K} | VARIANTS[variant] | settings
    return nearest(jnp.asarray(points), **given)


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


@variants
@pytest.mark.parametrize("name", OF_ONE_SHAPE)
def test_variants_against_the_definition(name, variant):
    points = CASES[name]
    if len(points) == POINTS:
        # Zeros change no distance, and spare compiling once more.
        points = np.pad(points, ((0, 0), (0, DIM - points.shape[1])))
    check(points, search(points, variant), VARIANTS[variant]["distance"])


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", FEW_UNCERTAIN)
def test_most_points_are_certain(name, distance):
    found = nearest(jnp.asarray(CASES[name]), k=K, distance=distance)
    assert found.uncertain.mean() <= 0.01


@variants
@pytest.mark.parametrize("name", [*FEW_UNCERTAIN, "clusters", "clusters in the last third"])
def test_most_points_are_certain_in_variants(name, variant):
    assert search(CASES[name], variant).uncertain.mean() <= 0.01


def test_the_anisotropic_case_is_what_it_says():
    points = CASES["anisotropic"].astype(np.float64)
    cosines = 1 - distances(points, "cosine") ** 2 / 2
    assert abs(cosines[~np.eye(POINTS, dtype=bool)].mean() - 0.9998) <= 1e-5


def test_few_points_of_many_dimensions_are_uncertain():
    found = nearest(jnp.asarray(normal(2000, 1024)), k=K)
    assert found.uncertain.mean() <= 0.01


@pytest.mark.parametrize("k", [1, pytest.param(POINTS - 2, marks=pytest.mark.slow)])
def test_other_counts_of_neighbours(k):
    points = CASES["gaussian"]
    check(points, nearest(jnp.asarray(points), k=k), "cosine", k=k)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "k"),
    [
        ("by pairs", 1),
        ("by pairs", POINTS - 2),
        ("fast", 16),
        ("fast by pairs", 64),
        ("8 devices", 2),
        ("8 devices, fast", 64),
    ],
)
def test_other_counts_of_neighbours_in_variants(variant, k):
    """Also more than the points of a block, a tile or a device."""
    points = CASES["anisotropic"]
    found = search(points, variant, k=k)
    check(points, found, VARIANTS[variant]["distance"], k=k)
    assert found.uncertain.mean() <= 0.2


@pytest.mark.parametrize(
    "variant",
    [
        "by pairs",
        "8 devices, fast",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("fast", "fast by pairs", "8 devices")
        ),
    ],
)
def test_three_points(variant):
    """Fewer than devices, and a single candidate more than neighbours."""
    found = search(normal(3, 2), variant, k=1)
    check(normal(3, 2), found, VARIANTS[variant]["distance"], k=1)
    np.testing.assert_array_equal(found.uncertain, False)


def planted() -> np.ndarray:
    """The first half lies between the others and their mirror images, some of those moved a bit."""
    points = normal(300, DIM)
    points[:203, 0] = 0
    images = points[203:] * np.where(np.arange(DIM) == 0, -1, 1).astype(np.float32)
    images[48:] = np.nextafter(images[48:], normal(49, DIM, seed=1) * 100)
    return np.concatenate([points, images])


@variants
def test_planted_ties_are_uncertain_and_nothing_else(variant):
    points = planted()
    found = search(points, variant)
    true = np.sort(distances(points, VARIANTS[variant]["distance"]), axis=1)
    gap = 1 - true[:, K - 1] / true[:, K]
    exact, near = gap <= 1e-14, (gap > 1e-14) & (gap <= 2.0**-23)
    assert min(exact.sum(), near.sum()) >= 20
    np.testing.assert_array_equal(found.uncertain[exact | near], True)
    np.testing.assert_array_equal(found.uncertain[gap >= 1e-5], False)
    assert (gap >= 1e-5).mean() >= 0.5


def test_exact_products_need_not_be_redone():
    for name in ("gaussian", "clusters"):
        assert not nearest(jnp.asarray(CASES[name]), k=K).redone.any()
        for variant in set(VARIANTS) - set(FAST):
            assert not search(CASES[name], variant).redone.any()


@pytest.mark.parametrize("variant", FAST)
def test_low_precision_is_redone_where_it_proves_too_little(variant):
    distance = VARIANTS[variant]["distance"]
    for name, least, most in [
        ("gaussian", 0, 0),
        ("clusters", POINTS, POINTS),
        ("clusters in the last third", 120, POINTS // 2),
    ]:
        found = search(CASES[name], variant)
        assert least <= found.redone.sum() <= most
        same(found, nearest(jnp.asarray(CASES[name]), k=K, distance=distance), least=0.99)


def test_fast_proves_all_that_exact_proves():
    """It proposes more candidates, so it may prove more, as where a whole cluster is proposed."""
    clusters = np.repeat(normal(29, DIM), 14, axis=0)[:POINTS] + normal(POINTS, DIM) * 1e-3
    assert candidates(K, low=False) < 13 <= candidates(K, low=True)
    for points in (*CASES.values(), clusters):
        if len(points) != POINTS:
            continue
        points = np.pad(points, ((0, 0), (0, DIM - points.shape[1])))
        exact, fast = (
            nearest(jnp.asarray(points), k=K, precision=precision)
            for precision in ("exact", "fast")
        )
        assert not np.any(fast.uncertain & ~exact.uncertain)
        same(exact, fast, least=0)
    assert exact.uncertain.mean() > 0.9 > 0.1 > fast.uncertain.mean()


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


@pytest.mark.parametrize(
    "settings",
    [
        {"tile": 1},
        pytest.param({"block": 7, "tile": 2}, marks=pytest.mark.slow),
        pytest.param({"block": 64, "tile": 500}, marks=pytest.mark.slow),
        {"symmetric": True, "block": 1, "tile": 1},
        pytest.param({"symmetric": True, "block": 133, "tile": 50}, marks=pytest.mark.slow),
        pytest.param({"precision": "fast", "block": 64, "tile": 7}, marks=pytest.mark.slow),
        {"precision": "fast", "symmetric": True, "block": 500, "tile": 100},
        pytest.param({"mesh": make_mesh(data=1), "precision": "fast"}, marks=pytest.mark.slow),
        pytest.param({"mesh": make_mesh(data=2), "tile": 3}, marks=pytest.mark.slow),
        {"mesh": make_mesh(data=4, model=2), "precision": "fast", "block": 1, "tile": 50},
    ],
    ids=str,
)
def test_no_setting_changes_anything(settings):
    for name in ("anisotropic", "clusters in the last third"):
        points = jnp.asarray(CASES[name])
        same(nearest(points, k=K, **settings), nearest(points, k=K), least=0.99)


@pytest.mark.parametrize("distance", DISTANCES)
def test_order_changes_nothing(distance):
    points = jnp.asarray(CASES["gaussian"])
    order = np.random.default_rng(1).permutation(POINTS)
    found = nearest(points[order], k=K, distance=distance)
    back = np.argsort(order)
    renamed = jax.tree.map(lambda x: x[back], found)._replace(index=order[found.index][back])
    same(renamed, nearest(points, k=K, distance=distance))


@variants
def test_order_changes_nothing_in_variants(variant):
    points = CASES["clusters in the last third"]
    order = np.random.default_rng(1).permutation(POINTS)
    found = search(points[order], variant)
    back = np.argsort(order)
    renamed = jax.tree.map(lambda x: x[back], found)._replace(index=order[found.index][back])
    same(renamed, search(points, variant), least=0.99)


PLACEMENTS = {
    "whole on each device": (PartitionSpec(), "8 devices"),
    "by dim": (PartitionSpec(None, "data"), "8 devices"),
    "by point": (PartitionSpec("data"), "8 devices, fast"),
}


@pytest.mark.parametrize(
    ("placement", "variant"),
    [
        pytest.param(*pair, id=name, marks=() if name == "by point" else pytest.mark.slow)
        for name, pair in PLACEMENTS.items()
    ],
)
def test_points_may_lie_on_the_mesh_in_any_way(placement, variant):
    """As many as the devices divide, for no others can be split by point."""
    points = np.append(CASES["clusters in the last third"], normal(3, DIM, seed=9), axis=0)
    placed = jax.device_put(points, NamedSharding(MESH, placement))
    settings = VARIANTS[variant]
    found = nearest(placed, k=K, **settings)
    expected = nearest(jnp.asarray(points), k=K, distance=settings["distance"])
    same(found, expected, least=0.99)


def test_scale_changes_nothing_under_cosine():
    points = CASES["gaussian"]
    scale = np.exp(20 * normal(POINTS, 1, seed=1)).astype(np.float32)
    same(nearest(jnp.asarray(points * scale), k=K), nearest(jnp.asarray(points), k=K))


def test_translation_and_scale_change_nothing_under_euclidean():
    points = np.round(CASES["gaussian"] * 1024) / 1024
    found = nearest(jnp.asarray(points), k=K, distance="euclidean")
    for moved in (points + 100, points * 1e-20):
        same(found, nearest(jnp.asarray(moved), k=K, distance="euclidean"))


SCALES = [1e-45, 1e-42, 1e-40, 1e-38, 2e-38, 1e-37, 1e-36, 1e-20, 1e20, 1e37, 1e38]


def scaled(scale: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        return CASES["gaussian"] * np.asarray(scale, np.float32)


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_at_every_scale_of_float32_certain_points_are_right(distance, precision):
    """Also where coordinates are subnormal, which devices take for 0, or infinite."""
    of_each_row = np.exp2(np.random.default_rng(3).uniform(-149, 127, (POINTS, 1)))
    for scale in (*SCALES, of_each_row):
        points = scaled(scale)
        found = nearest(jnp.asarray(points), k=K, distance=distance, precision=precision)
        left = np.isfinite(points).all(axis=1)
        if distance == "cosine":
            left &= np.abs(points).max(axis=1) >= np.finfo(np.float32).tiny
        np.testing.assert_array_equal(found.unusable, ~left)
        kept = np.flatnonzero(left)
        if len(kept) <= K:
            assert np.all(found.index == -1)
            continue
        order = np.argsort(distances(points[kept], distance), axis=1)[:, :K]
        certain = ~np.asarray(found.uncertain)[kept]
        np.testing.assert_array_equal(
            np.sort(found.index[kept][certain], axis=1), np.sort(kept[order][certain], axis=1)
        )
        assert certain.mean() >= 0.99 or np.size(scale) > 1 or scale < 1e-40


def with_outlier(times: float, distance: str) -> np.ndarray:
    """All others around a common direction; under cosine `times` closer together than it is far."""
    points = CASES["common direction"]
    if distance == "cosine":
        points = normal(DIM, seed=1) * np.float32(times / 30) + CASES["gaussian"]
        times = -1
    return np.where(np.arange(POINTS)[:, None] == 7, points * np.float32(times), points)


@variants
def test_an_outlier_leaves_the_others_certain(variant):
    """And lets bfloat16 prove them, on whichever device it is."""
    distance = VARIANTS[variant]["distance"]
    for times in (1e2, 1e3, 1e4, *((1e6, 1e12) if distance == "euclidean" else ())):
        points = with_outlier(times, distance)
        found = search(points, variant)
        others = np.arange(POINTS) != 7
        assert found.uncertain[others].mean() <= 0.01
        assert found.redone[others].mean() <= 0.05
        check(points, found, distance)


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


@variants
def test_unusable_points_count_as_dropped_in_variants(variant):
    """As many remain unusable as there is padding; all of them lie at the centre."""
    distance = VARIANTS[variant]["distance"]
    points = CASES["anisotropic"][: POINTS - 6]
    rows = [np.full(DIM, np.nan), np.full(DIM, -np.inf), np.zeros(DIM)] * 2
    places = [0, 17, 60, 200, POINTS - 6, POINTS - 6]
    rows = np.insert(points, places, rows, axis=0).astype(np.float32)
    unusable = np.insert(np.zeros(POINTS - 6, bool), places, True)
    kept = np.flatnonzero(~unusable)
    found = search(rows, variant, usable=jnp.asarray(~unusable))
    np.testing.assert_array_equal(found.unusable, unusable)
    np.testing.assert_array_equal(found.index[unusable], -1)
    np.testing.assert_array_equal(found.uncertain[unusable], False)
    np.testing.assert_array_equal(found.redone[unusable], False)
    dropped = nearest(jnp.asarray(points), k=K, distance=distance)
    renamed = jax.tree.map(lambda x: x[kept], found)
    same(renamed, dropped._replace(index=kept[dropped.index]), least=0.99)


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


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_narrow_floats_are_computed_in_float32(dtype):
    points = jnp.asarray(CASES["gaussian"]).astype(dtype)
    found, wide = nearest(points, k=K), nearest(points.astype(jnp.float32), k=K)
    jax.tree.map(np.testing.assert_array_equal, found, wide)


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(jax.vmap, id="vmap"),
        pytest.param(partial(partial, jax.lax.map), id="map", marks=pytest.mark.slow),
    ],
)
def test_under_the_transforms_of_jax(transform):
    states = jnp.asarray(normal(2, 60, DIM))
    search = partial(nearest, k=K, block=16)
    found = jax.jit(transform(search))(states)
    for layer, one in enumerate(states):
        same(Neighbors(*(field[layer] for field in found)), search(one))


def test_one_of_a_batch_is_redone_under_vmap():
    states = jnp.stack([CASES["gaussian"], CASES["clusters in the last third"]])
    found = jax.vmap(partial(nearest, k=K, precision="fast"))(states)
    np.testing.assert_array_equal(found.redone.any(axis=1), [False, True])
    for layer, one in enumerate(states):
        same(Neighbors(*(field[layer] for field in found)), nearest(one, k=K), least=0.99)


def test_by_pairs_under_map():
    states = jnp.asarray(normal(3, 60, DIM))
    search = partial(nearest, k=K, symmetric=True, block=16)
    found = jax.jit(partial(jax.lax.map, search))(states)
    for layer, one in enumerate(states):
        same(Neighbors(*(field[layer] for field in found)), nearest(one, k=K, block=16))


@pytest.mark.parametrize("precision", [pytest.param("exact", marks=pytest.mark.slow), "fast"])
def test_each_device_searches_its_own_points_in_a_map_of_the_caller(precision):
    states = jnp.asarray(normal(8 * 60, DIM))
    search = jax.shard_map(
        partial(nearest, k=K, precision=precision),
        mesh=MESH,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    found = jax.jit(search)(states)
    for device in range(8):
        own = slice(device * 60, (device + 1) * 60)
        expected = nearest(states[own], k=K, block=16)
        same(jax.tree.map(lambda x, own=own: x[own], found), expected)


@pytest.mark.parametrize(
    ("search", "shape"),
    [
        (partial(nearest, k=2), (35, 3)),
        (partial(ilo, k=3, mesh=MESH, precision="fast"), (5, 7, 3)),
    ],
    ids=["neighbours on one device", "ilo on 8"],
)
def test_the_same_shapes_are_compiled_once(search, shape, caplog):
    batches = [jnp.asarray(normal(*shape, seed=seed)) for seed in range(2)]
    compiled = []
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for batch in batches:
            caplog.clear()
            jax.block_until_ready(search(batch))
            compiled.append([m for m in caplog.messages if m.startswith("Compiling")])
    assert any("_nearest" in message for message in compiled[0])
    assert compiled[1] == []


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
    ({"k": 2, "precision": "high"}, "precision must be one of exact, fast, got 'high'"),
    ({"k": 2, "block": 0}, "block must be at least 1, got 0"),
    ({"k": 2, "tile": 0}, "tile must be at least 1, got 0"),
    (
        {"k": 2, "symmetric": True, "mesh": MESH},
        "symmetric must not be asked for with a mesh, got both",
    ),
    (
        {
            "k": -1,
            "distance": "dot",
            "precision": "",
            "block": -3,
            "tile": -1,
            "symmetric": True,
            "mesh": MESH,
        },
        "k must be in [1, 119] for 120 points, got -1; "
        "distance must be one of cosine, euclidean, got 'dot'; "
        "precision must be one of exact, fast, got ''; "
        "block must be at least 1, got -3; "
        "tile must be at least 1, got -1; "
        "symmetric must not be asked for with a mesh, got both",
    ),
]


@pytest.mark.parametrize(("settings", "message"), ERRORS, ids=lambda v: str(v)[:40])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=exactly(message)):
        nearest(jnp.zeros((120, 2)), **settings)


def test_more_points_than_an_index_can_name_are_refused():
    def shapes(count: int, **settings: Any) -> Neighbors:
        points = jax.ShapeDtypeStruct((count, 1), jnp.float32)
        return jax.eval_shape(partial(nearest, k=1, **settings), points)

    for settings in ({}, {"mesh": MESH}, {"symmetric": True}):
        assert shapes(2**30, **settings).index.shape == (2**30, 1)
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            shapes(2**30 + 1, **settings)
        assert str(refused.value) == "there must be at most 1073741824 points, got 1073741825"
