"""Sentences into rows of one static length, so that one shape serves a whole corpus."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

SHOWN = 10
"""How many offenders an error names."""


class Rows(NamedTuple):
    """Token ids of many sentences, several of them to a row.

    A row's sentences are its segments, 1, 2, ... from the left without a gap; what remains
    of the row is padding, 0 everywhere.
    """

    tokens: Int32[np.ndarray, "row seq"]
    positions: Int32[np.ndarray, "row seq"]
    """0, 1, ... within each segment."""
    segments: Int32[np.ndarray, "row seq"]
    """From 1; 0 is padding."""
    sentence: Int32[np.ndarray, "row segment"]
    """Which sentence is segment s + 1 of the row; -1 where the row has no such segment."""


def pack(sentences: Sequence[Sequence[int]], *, row_length: int) -> Rows:
    """Return rows that hold every sentence once and whole, with little padding.

    The longest sentences are placed first, each into the row with the least room that it
    still fits in, or else into a new one (best-fit decreasing: for many rows at most 11/9
    of the fewest possible). The same sentences always give the same rows.

    Cost: row_length / 64 machine words for each sentence, linear otherwise.

    Args:
        sentences: token ids of each sentence.
        row_length: in tokens.

    Raises:
        ValueError: if there are no sentences, or naming those that are empty or longer
            than a row.
    """
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    _refuse_unpackable(lengths, row_length)
    members = _best_fit(lengths, row_length)
    order = np.fromiter(chain.from_iterable(members), np.int64)
    counts = np.array([len(row) for row in members])
    row, slot = np.repeat(np.arange(len(members)), counts), _within(counts)

    packed = lengths[order]
    at_row = np.repeat(row, packed)
    at = at_row, _within(np.bincount(at_row))
    tokens, positions, segments = np.zeros((3, len(members), row_length), np.int32)
    tokens[at] = np.fromiter(chain.from_iterable(sentences[i] for i in order), np.int32)
    positions[at] = _within(packed)
    segments[at] = np.repeat(slot + 1, packed)
    sentence = np.full((len(members), counts.max()), -1, np.int32)
    sentence[row, slot] = order
    return Rows(tokens, positions, segments, sentence)


def padding_share(rows: Rows) -> float:
    """Return the share of all places that hold no token, in [0, 1)."""
    return float(np.mean(rows.segments == 0))


def _best_fit(lengths: Int[np.ndarray, " sent"], row_length: int) -> list[list[int]]:
    """Return the sentences of every row, in the order in which they were placed."""
    members: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    rooms = 0  # bit r: some row has room for r tokens; so the best fit is the lowest set bit
    for sentence in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[sentence])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            rooms ^= 0 if with_room[room] else 1 << room
            members[row].append(sentence)
        else:
            room, row = row_length, len(members)
            members.append([sentence])
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return members


def _within(counts: Int[np.ndarray, " group"]) -> Int[np.ndarray, " total"]:
    """Return 0, 1, ..., count - 1 for every group, one group after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _refuse_unpackable(lengths: Int[np.ndarray, " sent"], row_length: int) -> None:
    if row_length < 1:
        raise ValueError(f"row_length must be at least 1, got {row_length}")
    if not len(lengths):
        raise ValueError("sentences must be at least one, got none")
    unfit = np.flatnonzero((lengths < 1) | (lengths > row_length))
    if len(unfit):
        named = ", ".join(f"{lengths[i]} at index {i}" for i in unfit[:SHOWN])
        more = f", and {len(unfit) - SHOWN} more" if len(unfit) > SHOWN else ""
        raise ValueError(
            f"a sentence must have 1 to {row_length} tokens to fit a row, got {named}{more}"
        )
