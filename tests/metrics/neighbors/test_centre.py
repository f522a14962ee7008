"""A centre, against numpy in float64; outliers do not move it, however the points are split."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ilo_jax.metrics.neighbors.centre import robust_centre
from ilo_jax.sharding import make_mesh

POINTS = np.random.default_rng(0).standard_normal((240, 16)).astype(np.float32) + 3
ALL = np.ones(240, bool)
alone = jax.jit(robust_centre)


@jax.jit
def split(points: jax.Array, usable: jax.Array) -> jax.Array:
    """The centre that each of eight devices has."""
    spread = jax.shard_map(
        lambda p, u: robust_centre(p, u, axes=("data",))[None],
        mesh=make_mesh(data=8),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )
    return spread(points, usable)


def test_without_outliers_it_is_the_mean():
    np.testing.assert_allclose(alone(POINTS, ALL), POINTS.mean(axis=0), rtol=2.0**-16)


OUTLIERS = {
    "one": ([1e3], 1),
    "one, very far": ([1e12], 1),
    "a fifth": ([1e4], 48),
    "of two magnitudes": ([1e3, 1e9], 4),
}


@pytest.mark.parametrize(("scales", "number"), OUTLIERS.values(), ids=OUTLIERS)
def test_outliers_do_not_move_it(scales, number):
    points = POINTS.copy()
    for place, scale in enumerate(scales):
        points[place * number : (place + 1) * number] *= np.float32(scale)
    rest = POINTS[len(scales) * number :].mean(axis=0)
    np.testing.assert_allclose(alone(points, ALL), rest, rtol=2.0**-15)
    devices = np.asarray(split(points, ALL))
    np.testing.assert_allclose(devices, np.tile(rest, (8, 1)), rtol=2.0**-15)
    np.testing.assert_array_equal(devices, devices[:1].repeat(8, axis=0))


def test_unusable_points_do_not_count():
    usable = np.arange(240) >= 130
    points = np.where(usable[:, None], POINTS, 0)
    for found in (alone(points, usable), *split(points, usable)):
        np.testing.assert_allclose(found, POINTS[130:].mean(axis=0), rtol=2.0**-15)


def test_the_rest_may_be_at_one_place():
    points = np.where((np.arange(240) < 200)[:, None], 2, POINTS * 1e5).astype(np.float32)
    np.testing.assert_array_equal(alone(points, ALL), 2)


def test_no_usable_points_have_a_centre_at_zero():
    np.testing.assert_array_equal(alone(np.zeros((4, 3), np.float32), np.zeros(4, bool)), 0)
