"""Points around their centre, against numpy in float64."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ilo_jax.metrics.neighbors.cloud import (
    LOW_ROUNDOFF,
    Cloud,
    centred,
    depth,
    low_precision_loss,
    pairwise_sum,
    usable_points,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


centred = jax.jit(centred, static_argnames=("distance", "axes"))


def cloud_of(points: np.ndarray, *, distance: str) -> Cloud:
    rows = jnp.asarray(points)
    return centred(rows, usable_points(rows, distance=distance), distance=distance)


def around_the_mean(points: np.ndarray, *, distance: str) -> np.ndarray:
    points = points.astype(np.float64)
    if distance == "cosine":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points - points.mean(axis=0)


POINTS = normal(50, 17) + 3


def without_mean(points: jax.Array) -> np.ndarray:
    """The centre has 17 binary digits, and the mean is no farther away than that."""
    wide = np.asarray(points, np.float64)
    assert np.abs(wide.mean(axis=0)).max() <= 4 * 2.0**-17
    return wide - wide.mean(axis=0)


def squares(points: jax.Array) -> np.ndarray:
    return np.sum(np.asarray(points, np.float64) ** 2, axis=1)


def test_cosine_takes_points_of_length_one():
    cloud = cloud_of(POINTS, distance="cosine")
    expected = around_the_mean(POINTS, distance="cosine")
    np.testing.assert_allclose(without_mean(cloud.points), expected, atol=4e-7)
    np.testing.assert_allclose(cloud.squared_norm, squares(cloud.points), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1, 1e30])
def test_euclidean_scales_all_points_by_one_power_of_two(scale):
    """So that no square overflows, and no bit is lost."""
    points = POINTS * np.float32(scale)
    cloud = cloud_of(points, distance="euclidean")
    expected = around_the_mean(points, distance="euclidean")
    ratio = np.linalg.norm(cloud.points) / np.linalg.norm(expected)
    np.testing.assert_allclose(np.log2(ratio), np.round(np.log2(ratio)), atol=1e-6)
    expected *= 2 ** np.round(np.log2(ratio))
    np.testing.assert_allclose(without_mean(cloud.points), expected, atol=4e-7)
    np.testing.assert_allclose(cloud.squared_norm, squares(cloud.points), rtol=1e-6)
    assert 0.1 < np.abs(cloud.points).max() < 8


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_power_of_two_changes_nothing(distance):
    for scale in (2.0**-60, 2.0**90):
        jax.tree.map(
            np.testing.assert_array_equal,
            cloud_of(POINTS * np.float32(scale), distance=distance),
            cloud_of(POINTS, distance=distance),
        )


def test_cosine_points_have_each_its_own_scale():
    scales = 2.0 ** np.arange(-100, 100, 4, dtype=np.float32)[:, None]
    jax.tree.map(
        np.testing.assert_array_equal,
        cloud_of(POINTS * scales, distance="cosine"),
        cloud_of(POINTS, distance="cosine"),
    )


UNUSABLE = [np.nan, np.inf, -np.inf, 0.0, 1e-39]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_unusable_points_are_at_the_centre_and_do_not_move_it(distance):
    values = UNUSABLE if distance == "cosine" else UNUSABLE[:3]
    rows = np.concatenate([np.full((1, 17), value, np.float32) for value in values] + [POINTS])
    cloud = cloud_of(rows, distance=distance)
    np.testing.assert_array_equal(cloud.usable, np.arange(len(rows)) >= len(values))
    np.testing.assert_array_equal(cloud.points[: len(values)], 0)
    np.testing.assert_array_equal(cloud.squared_norm[: len(values)], 0)
    expected = around_the_mean(POINTS, distance=distance)
    found = without_mean(cloud.points[len(values) :])
    found = found * np.exp2(np.round(np.log2(np.linalg.norm(expected) / np.linalg.norm(found))))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_no_usable_points_are_all_at_the_centre():
    cloud = cloud_of(np.full((3, 4), np.nan, np.float32), distance="cosine")
    for field in cloud:
        np.testing.assert_array_equal(field, 0)


def test_points_over_devices_have_one_centre(eight):
    for distance in ("cosine", "euclidean"):
        points = POINTS[:48].copy()
        # The largest on one device only, and far out.
        points[5] *= 1e3
        split = jax.shard_map(
            lambda p, u, d=distance: centred(p, u, distance=d, axes=("data",)),
            mesh=eight,
            in_specs=jax.sharding.PartitionSpec("data"),
            out_specs=jax.sharding.PartitionSpec("data"),
        )
        found = jax.jit(split)(jnp.asarray(points), jnp.ones(48, bool))
        expected = cloud_of(points, distance=distance)
        np.testing.assert_allclose(found.points, expected.points, atol=1e-6)


@pytest.fixture
def eight():
    return jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def loss(points: np.ndarray) -> float:
    squared = jnp.asarray(np.sum(points.astype(np.float32) ** 2, axis=1))
    cloud = Cloud(jnp.asarray(points), squared, jnp.ones(len(points), bool))
    return float(low_precision_loss(cloud))


ADVERSARIAL = {
    "gaussian": normal(50, 17),
    "all just above a half step": np.full((3, 64), 1 + 2**-8 + 2**-20, np.float32),
    "all just below a half step": np.full((3, 64), 1 + 2**-8 - 2**-20, np.float32),
    "one coordinate": np.eye(3, dtype=np.float32) * np.float32(1 + 2**-8 - 2**-23),
    "exact in bfloat16": np.round(normal(50, 17) * 4),
    "powers apart": normal(50, 17) * np.exp2(normal(50, 1, seed=1) * 8).astype(np.float32),
}


@pytest.mark.parametrize("points", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_the_loss_is_what_bfloat16_moves_the_worst_point_by(points):
    wide = points.astype(np.float64)
    moved = np.linalg.norm(wide - points.astype(ml_dtypes.bfloat16).astype(np.float64), axis=1)
    expected = np.max(moved / np.linalg.norm(wide, axis=1))
    np.testing.assert_allclose(loss(points), expected, rtol=1e-5)
    assert loss(points) <= LOW_ROUNDOFF == 2**-8


def test_the_loss_of_points_whose_errors_underflow_is_bounded():
    points = normal(50, 17) * np.float32(1e-30)
    assert loss(points) == LOW_ROUNDOFF


def test_the_loss_is_that_of_the_worst_point_of_all_devices(eight):
    """Whichever device has it; the others lose nothing."""
    points = np.round(normal(48, 17) * 4)
    points[30:36] += 2.0**-7
    rows = jnp.asarray(points)
    cloud = Cloud(rows, jnp.asarray(squares(rows), jnp.float32), jnp.ones(48, bool))
    split = jax.shard_map(
        lambda cloud: low_precision_loss(cloud, axes=("data",))[None],
        mesh=eight,
        in_specs=jax.sharding.PartitionSpec("data"),
        out_specs=jax.sharding.PartitionSpec("data"),
    )
    assert loss(points[:30]) == 0
    np.testing.assert_array_equal(jax.jit(split)(cloud), np.full(8, loss(points)))
    assert loss(points) > 1e-4


def test_points_at_the_centre_lose_nothing():
    assert loss(np.zeros((3, 4), np.float32)) == 0


@pytest.mark.parametrize(("count", "additions"), [(1, 0), (2, 1), (3, 2), (64, 6), (1000, 10)])
def test_a_pairwise_sum_is_wrong_by_few_roundoffs(count, additions):
    terms = np.abs(normal(200, count)) + 1
    exact = terms.astype(np.float64).sum(axis=1)
    found = np.asarray(pairwise_sum(jnp.asarray(terms)))
    assert depth(count) == additions
    assert (np.abs(found - exact) <= 1.001 * additions * 2.0**-24 * exact).all()
