"""Which queries may see which keys: in packed rows, in what was read before, in an encoder's."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from ilo_jax.models.config import AttentionConfig
from ilo_jax.models.layers.rope import Rotation, rotation, segment_lengths
from ilo_jax.models.layers.spans import Span, spans
from ilo_jax.models.rotary import Rope


class Places(NamedTuple):
    """Where tokens stand: which segment they are of, and where in it."""

    positions: Int[Array, "batch seq"]
    """From 0 within each segment."""
    segments: Int[Array, "batch seq"]
    """From 1; 0 is padding."""


class Layout(NamedTuple):
    """Which queries may see which keys, for every kind of attention of a model."""

    queries: Places
    keys: Places
    masks: dict[int | None, list[tuple[Span, Bool[Array, "batch query key"]]]]
    """By window, for each span of queries: which keys they may see, True at [b, q, k]."""
    rotations: dict[Rope | None, Rotation | None]
    """Rotations of the queries, and of the keys that are projected from the same tokens."""

    def of(self, attention: AttentionConfig) -> "Layout":
        """What one kind of attention needs of it."""
        window, rope = attention.window, attention.rope
        masks, rotations = {window: self.masks[window]}, {rope: self.rotations[rope]}
        return self._replace(masks=masks, rotations=rotations)


def layout(
    attentions: Iterable[AttentionConfig],
    queries: Places,
    keys: Places | None = None,
    *,
    causal: bool,
) -> Layout:
    """Each distinct mask and rotation of a model's blocks, computed once.

    Args:
        attentions: Of the blocks.
        queries: The tokens that attend.
        keys: The tokens that they may see, such as all that were read before, or an encoder's;
            None: the queries, which are then whole rows.
        causal: Whether a token sees only itself and those before it in its segment.
    """
    kinds = list(attentions)
    seen = queries if keys is None else keys
    same = queries.segments[:, :, None] == seen.segments[:, None, :]
    lengths = segment_lengths(seen.positions, same)
    masks = {
        window: _by_span(
            segment_mask(queries, seen, causal=causal, window=window),
            _spans(queries, keys, causal=causal, window=window),
        )
        for window in dict.fromkeys(kind.window for kind in kinds)
    }
    rotations = {
        rope: None if rope is None else rotation(rope, queries.positions, lengths)
        for rope in dict.fromkeys(kind.rope for kind in kinds)
    }
    return Layout(queries, seen, masks, rotations)


def _spans(
    queries: Places, keys: Places | None, *, causal: bool, window: int | None
) -> Iterable[Span]:
    """Spans of a whole row; where the keys are others, all of them for all queries."""
    seq = queries.positions.shape[1]
    if keys is None:
        return spans(seq, causal=causal, window=window)
    return [Span(slice(0, seq), slice(0, keys.positions.shape[1]))]


def _by_span(
    mask: Bool[Array, "batch seq seen"], cuts: Iterable[Span]
) -> list[tuple[Span, Bool[Array, "batch query key"]]]:
    """Spans, each with its part of the mask."""
    return [(span, mask[:, span.queries, span.keys]) for span in cuts]


def segment_mask(
    queries: Places, keys: Places, *, causal: bool, window: int | None
) -> Bool[Array, "batch query key"]:
    """Which keys of its own segment a query may see: True at [b, q, k].

    Padding is a segment of its own, and where the keys are others than the queries it sees all of
    them, so that no row of the mask is empty.

    Args:
        queries: The tokens that attend.
        keys: The tokens that there are to see.
        causal: Whether a token sees only itself and those before it.
        window: How many last tokens, its own included, it sees; None: all.
    """
    mask = queries.segments[:, :, None] == keys.segments[:, None, :]
    behind = _behind(queries, keys)
    if causal:
        mask &= behind >= 0
    if window is not None:
        mask &= behind < window
    if keys is queries:
        return mask
    return mask | (queries.segments[:, :, None] == 0)


def _behind(queries: Places, keys: Places) -> Int[Array | np.ndarray, "#batch query key"]:
    """By how many tokens each key is behind each query, where they are of one segment.

    In a row the tokens of a segment follow each other, padding too: their distance is known
    before anything is computed.
    """
    if keys is queries:
        place = np.arange(queries.positions.shape[1])
        return (place[:, None] - place)[None]
    return queries.positions[:, :, None] - keys.positions[:, None, :]
