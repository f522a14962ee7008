"""Sentences into rows of one static length, so that one shape serves a whole corpus."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Bool, Int, Int32

from ilo_jax.refusals import refuse


class Sentences(NamedTuple):
    """Token ids of many sentences, one after the other."""

    tokens: Int32[np.ndarray, " token"]
    special: Bool[np.ndarray, " token"]
    """True where the tokenizer put a token of its own, so that poolings may leave it out."""
    target: Bool[np.ndarray, " token"]
    """True where a loss counts the token: it is to be predicted, not given."""
    lengths: Int32[np.ndarray, " sent"]
    """Tokens of each sentence."""


def as_sentences(
    ids: Iterable[Sequence[int]],
    special: Iterable[Sequence[int]] | None = None,
    *,
    target: Iterable[Sequence[int]] | None = None,
) -> Sentences:
    """Sentences given one by one.

    Args:
        ids: Token ids of each.
        special: 1 where the tokenizer put a token of its own; None: nowhere.
        target: 1 where a loss counts the token; None: everywhere.
    """
    arrays = [np.asarray(one, np.int32).reshape(-1) for one in ids]
    lengths = np.array([len(one) for one in arrays], np.int32)
    tokens = np.concatenate([*arrays, np.zeros(0, np.int32)])
    return Sentences(
        tokens,
        np.zeros(len(tokens), bool) if special is None else _flags(special),
        np.ones(len(tokens), bool) if target is None else _flags(target),
        lengths,
    )


def _flags(parts: Iterable[Sequence[int]]) -> Bool[np.ndarray, " token"]:
    arrays = [np.asarray(one, bool).reshape(-1) for one in parts]
    return np.concatenate([*arrays, np.zeros(0, bool)])


def joined(parts: Iterable[Sentences]) -> Sentences:
    """The sentences of several, in order."""
    return Sentences(*map(np.concatenate, zip(*parts, strict=True)))


class Windows(NamedTuple):
    """Sentences of any length in pieces that a model takes."""

    pieces: Sentences
    sentence: Int[np.ndarray, " piece"]
    """Which sentence each is of."""


def windows(sentences: Sentences, *, length: int) -> Windows:
    """Sentences cut up; each piece begins with the last token of the one before.

    So every token but the first of a sentence follows another in just one piece, and is predicted
    there.

    Args:
        sentences: None of them empty.
        length: Tokens that a piece has at most, from 2.

    Raises:
        ValueError: If it is shorter.
    """
    if length < 2:
        raise ValueError(f"a piece must have 2 tokens or more to predict one, got {length}")
    counts = np.maximum(1, -(-(sentences.lengths - 1) // (length - 1)))
    sentence = np.repeat(np.arange(len(counts)), counts)
    inside = _within(counts) * (length - 1)
    lengths = np.minimum(length, sentences.lengths[sentence] - inside).astype(np.int32)
    starts = np.cumsum(sentences.lengths) - sentences.lengths
    source = np.repeat(starts[sentence] + inside, lengths) + _within(lengths)
    tokens, special, target, _ = sentences
    pieces = Sentences(tokens[source], special[source], target[source], lengths)
    return Windows(pieces, sentence)


class Rows(NamedTuple):
    """Token ids of many sentences, several of them to a row: on the host, or on devices.

    A row's sentences are its segments, 1, 2, ... from the left without a gap; what remains
    of the row is padding, 0 everywhere.
    """

    tokens: Int[Any, "*part row seq"]
    positions: Int[Any, "*part row seq"]
    """0, 1, ... within each segment."""
    segments: Int[Any, "*part row seq"]
    """From 1; 0 is padding."""
    special: Bool[Any, "*part row seq"]
    """As in `Sentences`."""
    target: Bool[Any, "*part row seq"]
    """As in `Sentences`."""


Plan = Int32[np.ndarray, "row segment"]
"""Which sentence is segment s + 1 of a row; -1 where the row has no such segment."""


def plan(lengths: Int32[np.ndarray, " sent"], *, row_length: int, opening: int = 0) -> Plan:
    """Which sentences share rows: each once and whole, with little padding.

    The longest sentences are placed first, each into the row with the least room that it
    still fits in, or else into a new one (best-fit decreasing: for many rows at most 11/9
    of the fewest possible). The same lengths always give the same rows.

    Cost: row_length / 64 machine words for each sentence, linear otherwise.

    Args:
        lengths: Tokens of each sentence.
        row_length: In tokens.
        opening: Only sentences of more tokens than that have rows made for them; the others
            fill what room is left there, and where there is none they are left out.

    Raises:
        ValueError: If there are no sentences, or naming those that are empty or longer
            than a row.
    """
    _refuse_unpackable(lengths, row_length)
    members = _best_fit(lengths, row_length, opening)
    counts = np.array([len(row) for row in members], np.int64)
    sentence = np.full((len(members), counts.max(initial=1)), -1, np.int32)
    order = np.fromiter(chain.from_iterable(members), np.int32)
    sentence[np.repeat(np.arange(len(members)), counts), _within(counts)] = order
    return sentence


def fill(sentences: Sentences, planned: Plan, *, row_length: int) -> Rows:
    """The rows of a plan, or of some rows of it.

    Args:
        sentences: Of the whole plan.
        planned: What is to be in each row; a row of -1 is all padding.
        row_length: In tokens.
    """
    row, slot = np.nonzero(planned >= 0)
    order = planned[row, slot]
    lengths = sentences.lengths[order]
    at_row, inside = np.repeat(row, lengths), _within(lengths)
    # Rows are filled from the left: where a token goes is how many precede it in its row.
    at = at_row, _within(np.bincount(at_row))
    starts = np.cumsum(sentences.lengths) - sentences.lengths
    source = np.repeat(starts[order], lengths) + inside
    tokens, positions, segments = np.zeros((3, len(planned), row_length), np.int32)
    special, target = np.zeros((2, len(planned), row_length), bool)
    tokens[at] = sentences.tokens[source]
    special[at] = sentences.special[source]
    target[at] = sentences.target[source]
    positions[at] = inside
    segments[at] = np.repeat(slot + 1, lengths)
    return Rows(tokens, positions, segments, special, target)


def abstract_rows(*shape: int, sharding: Sharding) -> Rows:
    """Rows with shapes in place of their arrays.

    Args:
        *shape: Of each array: "row seq", or "part row seq".
        sharding: Of each array.
    """
    like = fill(as_sentences([]), np.full((1, 1), -1, np.int32), row_length=1)
    arrays = (jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding) for array in like)
    return Rows(*arrays)


def row_length(longest: int) -> int:
    """The row length for sentences up to `longest` tokens: a multiple of 128, from 256."""
    return max(256, -(-longest // 128) * 128)


def even_batches(
    sentences: Sentences, *, batch_tokens: int, places: int
) -> Iterator[tuple[Plan, Rows]]:
    """Yield rows of one length in batches of one shape, and what is in them: for small corpora.

    As few batches as may be, none of them much emptier than the others; the last is made up by
    padding.

    Args:
        sentences: Of which every process has all.
        batch_tokens: Positions computed at a time on each place.
        places: Along "data", of all processes.
    """
    length = row_length(int(sentences.lengths.max(initial=1)))
    planned = plan(sentences.lengths, row_length=length)
    needed = math.ceil(len(planned) / places)
    rows = places * math.ceil(needed / math.ceil(needed / max(1, batch_tokens // length)))
    for start in range(0, len(planned), rows):
        part = planned[start : start + rows]
        part = np.pad(part, ((0, rows - len(part)), (0, 0)), constant_values=-1)
        yield part, fill(sentences, part, row_length=length)


def _best_fit(lengths: Int[np.ndarray, " sent"], row_length: int, opening: int) -> list[list[int]]:
    """The sentences of every row, in the order in which they were placed."""
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
        elif length > opening:
            room, row = row_length, len(members)
            members.append([sentence])
        else:
            continue
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return members


def _within(counts: Int[np.ndarray, " group"]) -> Int[np.ndarray, " total"]:
    """0, 1, ..., count - 1 for every group, one group after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _refuse_unpackable(lengths: Int[np.ndarray, " sent"], row_length: int) -> None:
    if row_length < 1:
        raise ValueError(f"row_length must be at least 1, got {row_length}")
    if not len(lengths):
        raise ValueError("sentences must be at least one, got none")
    unfit = np.flatnonzero((lengths < 1) | (lengths > row_length))
    problems = [f"{lengths[i]} at index {i}" for i in unfit]
    what = f"a sentence must have 1 to {row_length} tokens to fit a row, got"
    refuse(what, problems, inline=True)
