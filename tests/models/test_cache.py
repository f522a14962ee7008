"""What is kept of tokens that were read, against a forward over all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.models.cache import caching, keeping, kept
from ilo_jax.models.layers.layout import Places
from tests.models.reading import rows_of
from tests.models.variants import TOLERANCE, VOCAB

FIRST, MORE, SLOTS = 12, 3, 24
LENGTHS = (1, 7, 12)
"""Of what is read first, in rows of one length: the slots between belong to nobody."""


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(2, VOCAB, (len(LENGTHS), FIRST + 2 * MORE))


def places(start: np.ndarray, count: int, real: np.ndarray | None = None) -> Places:
    positions = start[:, None] + np.arange(count)
    inside = np.ones(positions.shape, bool) if real is None else positions < real[:, None]
    return Places(jnp.asarray(np.where(inside, positions, 0)), jnp.asarray(inside.astype(np.int32)))


@pytest.mark.parametrize("variant", ["gemma2-both"])
def test_tokens_read_later_are_as_in_one_forward(ours, tokens, variant):
    """Some at once, twice, beyond the window; rows of different lengths."""
    model, lengths = ours(variant), np.array(LENGTHS)
    whole = places(np.zeros(3, int), FIRST + 2 * MORE)
    first = places(np.zeros(3, int), FIRST, lengths)

    @jax.jit
    def later(tokens):
        shown = model.run(rows_of(tokens[:, :FIRST], *first), visit=keeping(model.config)).shown
        cache, found = kept(shown, first, slots=SLOTS), []
        for turn in range(2):
            start = lengths + turn * MORE
            new = places(start, MORE)
            some = jnp.take_along_axis(tokens, new.positions, axis=1)
            ran = model.run(rows_of(some, *new), visit=caching(cache), seen=cache.seen(new))
            cache = cache.grown(ran.shown, new)
            found.append(ran.value)
        return jnp.concatenate(found, axis=1), cache

    @jax.jit
    def at_once(tokens):
        return model.run(rows_of(tokens, *whole)).value

    (found, cache), wanted = later(jnp.asarray(tokens)), at_once(jnp.asarray(tokens))
    for row, length in enumerate(LENGTHS):
        there = wanted[row, length : length + 2 * MORE]
        assert np.abs(found[row] - there).max() <= TOLERANCE * max(1, np.abs(there).max())
    assert cache.filled == FIRST + 2 * MORE
    real = np.asarray(cache.places.segments)
    assert real.sum(axis=1).tolist() == [length + 2 * MORE for length in LENGTHS]
    assert not np.asarray(cache.keys[0])[:, :, FIRST + 2 * MORE :].any()
