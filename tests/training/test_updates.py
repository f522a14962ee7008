"""What is updated block by block against the same optimizer over all weights at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ilo_jax.training import updates
from ilo_jax.training.optimizers import adamw, muon


@pytest.mark.parametrize("make", [adamw, muon])
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize(
    "paths",
    [
        ("layers/0/attn/q/kernel", "layers/1/attn/q/kernel", "norm/scale", "head/bias"),
        ("layers/3x/w", "layers/3/x/w", "a", "a/", "scale"),
        ("only",),
        (),
    ],
)
def test_updates_block_by_block_are_those_of_optax(paths, clip, make):
    rng = np.random.default_rng(0)
    weights = {path: jnp.asarray(rng.normal(size=(3, 3)), jnp.float32) for path in paths}
    optimizer = make(lambda step: 0.1, weight_decay=0.1, clip=clip)
    plain, moments = weights, optimizer.init(weights)
    expected = moments
    for _ in range(3):
        gradients = {path: jnp.asarray(rng.normal(size=(3, 3)), jnp.float32) for path in paths}
        norm = 0.5 * updates.norm(gradients)
        weights, moments = updates.updated(
            optimizer, gradients, moments, weights, jnp.float32(0.5), norm
        )
        halves = jax.tree.map(lambda gradient: 0.5 * gradient, gradients)
        changes, expected = optimizer.update(halves, expected, plain)
        plain = optax.apply_updates(plain, changes)
    assert jax.tree.structure((weights, moments)) == jax.tree.structure((plain, expected))
    for one, other in zip(
        jax.tree.leaves((weights, moments)), jax.tree.leaves((plain, expected)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
