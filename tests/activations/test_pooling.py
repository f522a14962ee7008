import jax.numpy as jnp
import numpy as np

from ilo_jax.activations import pooling


def test_mean_is_the_mean_of_each_segment():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 7, 3)).astype(np.float32)
    segments = np.array([[1, 1, 1, 2, 2, 3, 0], [1, 1, 1, 1, 0, 0, 0]])
    pooled = pooling.mean(jnp.asarray(hidden), jnp.asarray(segments), count=4)
    assert pooled.shape == (2, 4, 3)
    for row in range(2):
        for segment in range(1, 5):
            tokens = hidden[row, segments[row] == segment].astype(np.float64)
            expected = tokens.mean(0) if len(tokens) else np.zeros(3)
            np.testing.assert_allclose(pooled[row, segment - 1], expected, rtol=0, atol=1e-6)


def test_bfloat16_states_are_summed_in_float32():
    hidden = jnp.ones((1, 4096, 2), jnp.bfloat16) * jnp.bfloat16(1.0078125)
    pooled = pooling.mean(hidden, jnp.ones((1, 4096), jnp.int32), count=1)
    assert pooled.dtype == jnp.float32
    np.testing.assert_array_equal(pooled, np.float32(1.0078125))
