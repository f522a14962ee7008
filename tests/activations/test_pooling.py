import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.activations import pooling

COUNT = 4
SEGMENTS = np.array([
    [1, 1, 1, 2, 2, 3, 0],
    [1, 1, 1, 1, 0, 0, 0],
    [0, 2, 2, 0, 0, 2, 0],  # as where special tokens are left out
    [0, 0, 0, 0, 0, 0, 0],
])
DEFINITIONS = {
    pooling.mean: lambda tokens: tokens.mean(0),
    pooling.last: lambda tokens: tokens[-1],
    pooling.maximum: lambda tokens: tokens.max(0),
}
RUN = {pool: jax.jit(pool, static_argnames="count") for pool in DEFINITIONS}
POOLINGS = pytest.mark.parametrize("pool", DEFINITIONS, ids=lambda pool: pool.__name__)


def by_definition(pool, hidden: np.ndarray) -> np.ndarray:
    """One segment at a time, in float64; zero where a row has no such segment."""
    found = np.zeros((len(hidden), COUNT, hidden.shape[-1]))
    for row, ids in enumerate(SEGMENTS):
        for segment in set(ids.tolist()) - {0}:
            tokens = hidden[row, ids == segment].astype(np.float64)
            found[row, segment - 1] = DEFINITIONS[pool](tokens)
    return found


def drawn(dtype=np.float32) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(*SEGMENTS.shape, 3)), dtype)


@POOLINGS
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_each_segment_is_pooled_alone(pool, dtype):
    hidden = drawn(dtype)
    pooled = RUN[pool](hidden, jnp.asarray(SEGMENTS), count=COUNT)
    assert pooled.shape == (4, COUNT, 3)
    assert pooled.dtype == jnp.float32
    expected = by_definition(pool, np.asarray(hidden))
    # What is chosen is not rounded.
    atol = 1e-6 if pool is pooling.mean else 0
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=atol)


@POOLINGS
def test_what_else_is_in_the_row_changes_nothing(pool):
    hidden, segments = np.array(drawn()), jnp.asarray(SEGMENTS)
    before = np.asarray(RUN[pool](jnp.asarray(hidden), segments, count=COUNT))
    hidden[SEGMENTS != 2] = 1e6
    after = np.asarray(RUN[pool](jnp.asarray(hidden), segments, count=COUNT))
    np.testing.assert_array_equal(after[:, 1], before[:, 1])


@POOLINGS
def test_segments_beyond_those_asked_for_are_left_out(pool):
    hidden, segments = drawn(), jnp.asarray(SEGMENTS)
    np.testing.assert_array_equal(
        RUN[pool](hidden, segments, count=2), RUN[pool](hidden, segments, count=COUNT)[:, :2]
    )


def test_bfloat16_states_are_summed_in_float32():
    """Compiled, XLA would keep the sum exact by itself; 257 is no bfloat16."""
    pooled = pooling.mean(
        jnp.ones((1, 257, 2), jnp.bfloat16), jnp.ones((1, 257), jnp.int32), count=1
    )
    assert pooled.dtype == jnp.float32
    np.testing.assert_array_equal(pooled, np.float32(1))


def test_the_last_token_is_the_last_in_the_row():
    hidden = jnp.asarray(np.arange(14.0, dtype=np.float32).reshape(1, 7, 2))
    pooled = RUN[pooling.last](hidden, jnp.asarray(SEGMENTS[:1]), count=3)
    assert pooled.tolist() == [[[4, 5], [8, 9], [10, 11]]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_largest_of_negative_values_is_negative(dtype):
    hidden = jnp.asarray(-1.0 - np.arange(7.0).reshape(1, 7, 1), dtype)
    pooled = RUN[pooling.maximum](hidden, jnp.asarray(SEGMENTS[:1]), count=COUNT)
    assert pooled[0, :, 0].tolist() == [-1, -4, -6, 0]


def test_the_largest_value_is_of_each_dimension():
    hidden = jnp.asarray([[[1.0, 5.0], [3.0, 2.0]]])
    pooled = RUN[pooling.maximum](hidden, jnp.asarray([[1, 1]]), count=1)
    assert pooled.tolist() == [[[3, 5]]]
