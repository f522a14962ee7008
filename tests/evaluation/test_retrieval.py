import jax.numpy as jnp
import numpy as np

from ilo_jax.evaluation.retrieval import translations_found
from ilo_jax.metrics import retrieval


def test_every_state_is_searched_as_it_comes():
    """In the second, the two languages are one."""
    states = np.random.default_rng(0).standard_normal((2, 2, 9, 5)).astype(np.float32)
    states[1, 1] = states[1, 0] + 1e-3
    found = translations_found((state for state in states), distance="euclidean")
    for shares, state in zip(found, states, strict=True):
        wanted = retrieval(jnp.asarray(state), distance="euclidean")
        np.testing.assert_array_equal(shares, wanted)
    np.testing.assert_array_equal(found[1], [[np.nan, 1], [1, np.nan]])
    assert (found[0][[0, 1], [1, 0]] < 1).all()
