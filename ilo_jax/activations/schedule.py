"""Which sentences are computed when: languages in blocks, blocks in rows, rows in batches."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from ilo_jax.corpora.packing import (
    Plan,
    Rows,
    Sentences,
    as_sentences,
    fill,
    joined,
    plan,
    row_length,
)

BLOCK_BATCHES = 64
"""Languages are packed together until they fill so many batches: the last is seldom full."""
BLOCK_BYTES = 2**30
"""But not beyond what their states take on the host."""


class Block(NamedTuple):
    """Languages that are packed, computed and written together."""

    languages: list[int]
    """By index."""
    sentences: Sentences
    """Token ids of the sentences of all languages of the block."""
    plans: list[Plan]
    """By kind of row."""


class Batch(NamedTuple):
    """Rows that are computed together."""

    block: int
    """Which block they are of; -1 for rows of padding."""
    plan: Plan
    rows: Rows


class Schedule(NamedTuple):
    """All that a process has to do, in order."""

    blocks: list[Block]
    work: list[int]
    """Which blocks are to be computed."""
    row_lengths: tuple[int, ...]
    """Length of each kind of row, in tokens, shortest first."""
    rows: tuple[int, ...]
    """How many rows of each kind a batch of this process's devices has."""

    @property
    def segments(self) -> list[int]:
        """The most sentences that a row of each kind holds."""
        return [max([1, *(b.plans[k].shape[1] for b in self.blocks)]) for k in self._kinds]

    @property
    def longest(self) -> list[int]:
        """The most rows of each kind that any block has."""
        return [max([1, *(len(b.plans[k]) for b in self.blocks)]) for k in self._kinds]

    @property
    def _kinds(self) -> range:
        return range(len(self.row_lengths))

    def lengths(self) -> Int32[np.ndarray, " sent"]:
        """The lengths of all sentences that are to be computed."""
        found = [self.blocks[block].sentences.lengths for block in self.work]
        return np.concatenate([np.zeros(0, np.int32), *found])

    def counts(self) -> Int32[np.ndarray, "work kind"]:
        """How many batches of each kind there are, of each block to be computed."""
        plans = [self.blocks[block].plans for block in self.work]
        rows = np.array([[len(plan) for plan in each] for each in plans], np.int32)
        return -(-rows.reshape(-1, len(self.rows)) // np.array(self.rows, np.int32))

    def batch(self, block: int, kind: int, start: int) -> Batch:
        """The batch of a block that begins at some row, the last made up by padding."""
        rows = self.rows[kind]
        planned = self.blocks[block].plans[kind][start : start + rows]
        planned = np.pad(planned, ((0, rows - len(planned)), (0, 0)), constant_values=-1)
        sentences = self.blocks[block].sentences
        return Batch(block, planned, fill(sentences, planned, row_length=self.row_lengths[kind]))

    def padding(self, kind: int) -> Batch:
        """A batch without sentences, for a process that waits for others."""
        planned = np.full((self.rows[kind], 1), -1, np.int32)
        nothing = as_sentences([])
        return Batch(-1, planned, fill(nothing, planned, row_length=self.row_lengths[kind]))


def kinds(longest: int) -> list[tuple[int, ...]]:
    """The choices of row lengths for sentences up to `longest` tokens.

    One kind of row for all, or one or two of short ones besides: in them, fewer pairs of tokens
    that have nothing to do with each other are looked at. Each kind is compiled by itself.
    """
    whole = row_length(longest)
    short = [64 * 2**i for i in range(math.ceil(math.log2(whole / 64)))]
    some = itertools.chain.from_iterable(itertools.combinations(short, n) for n in range(3))
    return [(*lengths, whole) for lengths in some]


def rows_needed(lengths: Int32[np.ndarray, " sent"], row_lengths: Sequence[int]) -> list[int]:
    """How many rows of each kind sentences take.

    Args:
        lengths: Tokens of each sentence.
        row_lengths: Of each kind of row, in tokens, shortest first.
    """
    return [len(plan) for plan in _plans(lengths, row_lengths)]


def schedule(
    sentences: Mapping[int, Sentences],
    missing: Collection[int],
    *,
    row_lengths: tuple[int, ...],
    rows: tuple[int, ...],
    token_bytes: int,
    sentence_bytes: int,
) -> Schedule:
    """What a process has to do: the blocks of languages of which any is missing.

    What is missing has no bearing on how languages are packed, so that a run that was
    stopped computes the same as one that was not.

    Args:
        sentences: Of each of the process's languages, by index.
        missing: Languages that are not stored.
        row_lengths: Of each kind of row, in tokens, shortest first.
        rows: Of each kind, in a batch, of this process's devices.
        token_bytes: That the states of a token take on the host.
        sentence_bytes: That the states of a sentence take on the host.

    Raises:
        ValueError: If a sentence has no tokens, or more than a row of the last kind.
    """
    groups: list[list[int]] = []
    tokens = size = 0
    for language, each in sentences.items():
        full = tokens >= BLOCK_BATCHES * rows[0] * row_lengths[0] or size >= BLOCK_BYTES
        if full or not groups:
            groups.append([])
            tokens = size = 0
        groups[-1].append(language)
        tokens += len(each.tokens)
        size += token_bytes * len(each.tokens) + sentence_bytes * len(each.lengths)
    blocks = [_block(group, sentences, row_lengths) for group in groups]
    to_do = [i for i, block in enumerate(blocks) if {*block.languages} & {*missing}]
    return Schedule(blocks, to_do, row_lengths, rows)


def _block(
    group: Sequence[int], sentences: Mapping[int, Sentences], row_lengths: Sequence[int]
) -> Block:
    together = joined(sentences[language] for language in group)
    return Block(list(group), together, _plans(together.lengths, row_lengths))


def _plans(lengths: Int32[np.ndarray, " sent"], row_lengths: Sequence[int]) -> list[Plan]:
    """The rows of each kind.

    Sentences that no shorter kind holds have rows made for them, and shorter ones fill these.
    """
    plans, left = [], np.arange(len(lengths), dtype=np.int32)
    for length, shorter in zip(row_lengths[::-1], (*row_lengths[-2::-1], 0), strict=True):
        planned = np.full((0, 1), -1, np.int32)
        if len(left):
            planned = plan(lengths[left], row_length=length, opening=shorter)
            planned = np.where(planned >= 0, left[planned], -1).astype(np.int32)
        left = np.setdiff1d(left, planned)
        plans.insert(0, planned)
    return plans
