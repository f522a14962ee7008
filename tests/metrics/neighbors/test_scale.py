"""Points brought near 1, against numpy in float64: no bit is lost, that of a subnormal neither."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.metrics.neighbors.scale import rescaled

MAGNITUDES = np.array([1e-45, 1e-42, 1e-39, 1.2e-38, 1e-36, 1e-20, 1, 1.4, 1e20, 3e38], np.float32)
rescaled = jax.jit(rescaled)


@pytest.mark.parametrize("peak", MAGNITUDES)
def test_nothing_is_lost(peak):
    points = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32) * peak
    points[0] = [0, -peak, peak]
    found = np.asarray(rescaled(jnp.asarray(points), jnp.full((1, 1), peak)), np.float64)
    scale = found[0, 2] / np.float64(peak)
    assert np.log2(scale) == np.round(np.log2(scale))
    assert 1 <= found[0, 2] < 4 or (peak < 2.0**-126 and found[0, 2] < 4)
    np.testing.assert_array_equal(found, points.astype(np.float64) * scale)


def test_each_row_has_its_own_peak():
    points = np.outer(MAGNITUDES, [1, -0.5, 0]).astype(np.float32)
    found = np.asarray(rescaled(jnp.asarray(points), jnp.asarray(MAGNITUDES)[:, None]), np.float64)
    normal = MAGNITUDES >= 2.0**-126
    assert (np.abs(found[normal, 0]) >= 1).all()
    np.testing.assert_array_equal(found[normal, 1], found[normal, 0] / -2)


def test_what_is_far_below_the_peak_is_wrong_by_little():
    points = np.outer(MAGNITUDES, np.ones(1)).astype(np.float32)
    found = np.asarray(rescaled(jnp.asarray(points), jnp.full((1, 1), np.float32(3e38))))
    true = points.astype(np.float64) / 2.0**126
    assert np.abs(found.astype(np.float64) - true).max() < 2.0**-102
