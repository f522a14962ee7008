import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.models.layers import layout as module
from ilo_jax.models.layers import spans
from ilo_jax.models.layers.layout import Places, segment_mask
from ilo_jax.models.layers.spans import Span
from tests.models.layers.places import BATCH, CONFIG, PLACES, POSITIONS, ROPE, SEQ, at, seen


@pytest.fixture(autouse=True)
def _spans_of_two(monkeypatch):
    monkeypatch.setattr(spans, "SMALLEST", 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 2, 3, SEQ, 100])
def test_mask_against_the_definition(causal, window):
    mask = np.asarray(segment_mask(PLACES, PLACES, causal=causal, window=window))
    assert mask.shape == (BATCH, SEQ, SEQ)
    for b, q in np.ndindex(BATCH, SEQ):
        assert np.flatnonzero(mask[b, q]).tolist() == seen(b, q, causal=causal, window=window)
        assert mask[b, q, q]


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Record what a function of the module is asked for."""
    calls, original = [], getattr(module, name)

    def recording(*args, **kwargs):
        calls.append(kwargs.get("window", args[0]))
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, recording)
    return calls


def whole(parts: list[tuple[Span, Any]]) -> np.ndarray:
    """Put the masks of the spans of a row together."""
    mask = np.zeros((BATCH, SEQ, SEQ), bool)
    for span, part in parts:
        mask[:, span.queries, span.keys] = part
    return mask


def test_layout_has_each_distinct_mask_and_rotation():
    sliding = dataclasses.replace(CONFIG, window=2, rope=ROPE)
    where = at(*[sliding] * 3, CONFIG, *[sliding] * 3, CONFIG)
    assert set(where.masks) == {None, 2}
    assert set(where.rotations) == {None, ROPE}
    assert where.rotations[None] is None
    assert np.array_equal(where.queries.positions, POSITIONS)
    assert where.keys is where.queries
    for window, parts in where.masks.items():
        mask = whole(parts)
        for b, q in np.ndindex(BATCH, SEQ):
            assert np.flatnonzero(mask[b, q]).tolist() == seen(b, q, causal=True, window=window)


@pytest.mark.parametrize("causal", [False, True])
def test_layout_of_encoders_and_decoders(causal):
    (parts,) = at(CONFIG, causal=causal).masks.values()
    assert len(parts) == (4 if causal else 1)
    assert bool(whole(parts)[0, 2, 3]) == (not causal)


def test_equal_blocks_share_a_mask_and_a_rotation(monkeypatch):
    masks, rotations = counted(monkeypatch, "segment_mask"), counted(monkeypatch, "rotation")
    full = dataclasses.replace(CONFIG, rope=ROPE)
    sliding = dataclasses.replace(CONFIG, window=2, rope=dataclasses.replace(ROPE, theta=9.0))
    at(full, sliding, full, sliding)
    assert masks == [None, 2]
    assert rotations == [full.rope, sliding.rope]


def test_blocks_that_differ_elsewhere_share_a_mask_and_a_rotation(monkeypatch):
    masks, rotations = counted(monkeypatch, "segment_mask"), counted(monkeypatch, "rotation")
    full = dataclasses.replace(CONFIG, rope=ROPE)
    at(full, dataclasses.replace(full, scale=0.25), dataclasses.replace(full, window=2))
    assert masks == [None, 2]
    assert rotations == [ROPE]


def test_queries_of_a_decoder_see_the_keys_of_their_segment_elsewhere():
    """As in cross-attention: an encoder's tokens, of which some segments are not there."""
    keys = Places(jnp.asarray([[0, 1, 2], [0, 0, 1]]), jnp.asarray([[2, 2, 2], [1, 3, 3]]))
    queries = Places(*(array[:, 2:5] for array in PLACES))
    mask = np.asarray(segment_mask(queries, keys, causal=False, window=None))
    assert mask.tolist() == [
        [[True] * 3] * 3,
        [[False, True, True]] * 2 + [[True] * 3],
    ]
