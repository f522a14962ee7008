import jax.numpy as jnp
import numpy as np

from ilo_jax.generation.past import begun
from ilo_jax.generation.state import MAXIMUM, RUNNING, fresh, said
from ilo_jax.models.cache import Cache
from ilo_jax.models.layers.layout import Places
from ilo_jax.sharding import make_mesh


def test_what_was_said_stands_behind_each_prompt():
    """Of the rows that are wanted; nothing of the prompt, and nothing that was not said."""
    tokens = jnp.asarray([[5, 6, 7, 0], [8, 0, 0, 0], [9, 9, 0, 0]])
    past = begun(tokens, jnp.asarray([3, 1, 2]), positions=8)
    slots = jnp.zeros((3, 1, 8, 2))
    places = Places(jnp.zeros((3, 8), jnp.int32), jnp.zeros((3, 8), jnp.int32))
    cache = Cache((slots,), (slots,), places, jnp.int32(3))
    state = fresh(past, cache, jnp.asarray([4, 0, 4]), room=4)
    assert state.progress.ended.tolist() == [RUNNING, MAXIMUM, RUNNING]
    assert state.progress.waiting.tolist() == [True, False, True]
    for token in (1, 2):
        running = jnp.asarray([True, False, False])
        past = state.progress.past.then(jnp.full(3, token), running)
        state = state._replace(progress=state.progress._replace(past=past))
    progress = state.progress._replace(log_likelihoods=-jnp.ones((4, 3)))
    shown = {("residual", 0): jnp.ones((4, 3, 2))}
    found = said(state._replace(progress=progress, shown=shown), make_mesh(data=1), rows=2)
    np.testing.assert_array_equal(found.tokens, [[1, 2, 0, 0], [0, 0, 0, 0]])
    assert found.lengths.tolist() == [2, 0]
    np.testing.assert_array_equal(found.log_likelihoods, [[-1, -1, 0, 0], [0] * 4])
    # The last token is still to be read.
    assert found.shown["residual", 0][0, :, 0].tolist() == [1, 0, 0, 0]
    assert not found.shown["residual", 0][1].any()
