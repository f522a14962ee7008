"""A chain of equal blocks, for the tests of how it is compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from ilo_jax.compiling.parts import part
from ilo_jax.sharding import place_loose

BLOCKS, DIM, ROWS = 6, 16, 8


@part()
def block(weights, hidden):
    return hidden + jnp.tanh(hidden @ weights["up"]) @ weights["down"]


def loss(weights, hidden):
    for each in weights:
        hidden = block(each, hidden)
    return jnp.square(hidden).mean(), hidden.sum(0)


gradient = jax.value_and_grad(loss, has_aux=True)


def drawn(mesh, *, lies=None):
    rng = np.random.default_rng(0)
    weights = [
        {name: rng.normal(size=(DIM, DIM)).astype(np.float32) / 4 for name in ("up", "down")}
        for _ in range(BLOCKS)
    ]
    hidden = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    if lies is not None:
        hidden = jax.device_put(hidden, lies)
    return place_loose((weights, hidden), mesh)


def close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())
