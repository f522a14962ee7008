"""A schedule that all processes of a run agree upon."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from ilo_jax.activations.schedule import Batch, Schedule, kinds, rows_needed, schedule
from ilo_jax.activations.store import Store
from ilo_jax.activations.taps import Tap
from ilo_jax.corpora.packing import Sentences
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.flops import block_weights, pair_flops
from ilo_jax.processes import gathered, largest

PAIRS_SLOWER = {"cpu": 3}
"""By backend, how much slower an operation of attention is than one of a matrix of weights: its
products are small, and softmax comes on top."""
WORTH = 0.03
"""Share of the time that another kind of row must save, beside the time of one batch: about what
compiling it takes on a CPU."""


class Step(NamedTuple):
    """A batch to come."""

    kind: int
    """Kind of the batch's rows, from 0, shortest first."""
    make: Callable[[], Batch]


def planned(
    config: ModelConfig,
    sentences: Mapping[int, Sentences],
    store: Store,
    taps: Sequence[Tap],
    *,
    batch_tokens: int,
    width: int,
) -> Schedule:
    """What this process has to do, in rows of the lengths that suit all processes.

    All processes must call it.

    Args:
        config: Of the model.
        sentences: Of each of this process's languages, by index.
        store: In which something may be missing.
        taps: What is to be taken.
        batch_tokens: Positions computed at a time on each place along "data".
        width: How many such places this process feeds.
    """
    # More than the 32 bits that processes exchange are more than anybody has.
    at_once = min(batch_tokens * width, 2**31 - 1)
    row_lengths = _row_lengths(config, sentences, batch_tokens=at_once)
    sizes = {True: 0, False: 0}
    for tap in taps:
        sizes[tap.pooling == "tokens"] += 4 * tap.width * len(tap.layers)
    most = tuple(rows_at_once(batch_tokens, row_length=length) for length in row_lengths)
    plan = schedule(
        sentences,
        store.missing(),
        row_lengths=row_lengths,
        rows=tuple(rows * width for rows in most),
        token_bytes=sizes[True],
        sentence_bytes=sizes[False],
    )
    # As many batches, but none of them much emptier than the others.
    needed = largest([math.ceil(rows / width) for rows in plan.longest])
    even = [math.ceil(n / math.ceil(n / rows)) for n, rows in zip(needed, most, strict=True)]
    return plan._replace(rows=tuple(rows * width for rows in even))


def rows_at_once(batch_tokens: int, *, row_length: int) -> int:
    """How many rows each place along "data" computes at a time, at most.

    Args:
        batch_tokens: Positions that are asked for.
        row_length: In tokens.
    """
    return max(1, batch_tokens // row_length)


def _row_lengths(
    config: ModelConfig, sentences: Mapping[int, Sentences], *, batch_tokens: int
) -> tuple[int, ...]:
    """The row lengths that take the least time for the sentences of all processes.

    Each kind of row, and with it another compilation, must be worth it.
    """
    lengths = np.concatenate([np.ones(1, np.int32), *(s.lengths for s in sentences.values())])
    longest, batch_tokens = largest([int(lengths.max()), batch_tokens])
    choices = kinds(longest)
    costs = {length: _row_cost(config, length) for length in sorted({*sum(choices, ())})}
    own = [
        sum(n * costs[length] for n, length in zip(rows_needed(lengths, each), each, strict=True))
        for each in choices
    ]
    cost = gathered(np.array(own, np.float32)).sum(axis=0)
    more = np.array([len(choice) - 1 for choice in choices])
    batch = _row_cost(config, choices[0][-1]) * batch_tokens / choices[0][-1]
    return choices[int(np.argmin(cost + more * (WORTH * cost + batch)))]


def _row_cost(config: ModelConfig, length: int) -> int:
    """What a row takes, in operations of matrices of weights."""
    slower = PAIRS_SLOWER.get(jax.default_backend(), 1)
    weights = sum(block_weights(block, dim=config.dim) for block in config.blocks)
    pairs = sum(pair_flops(block, length, causal=config.causal) for block in config.blocks)
    return 2 * weights * length + slower * pairs


def steps_of(plan: Schedule) -> list[Step]:
    """All batches in the order that all processes compute them in.

    Of each block and kind as many as any process has; those that this one has not are padding.
    All processes must call it.
    """
    own = plan.counts()
    (blocks,) = largest([len(own)])
    own = np.pad(own, ((0, blocks - len(own)), (0, 0)))
    steps = []
    for (place, kind), count in np.ndenumerate(gathered(own).max(axis=0)):
        for number in range(count):
            make = partial(plan.padding, kind)
            if number < own[place, kind]:
                make = partial(plan.batch, plan.work[place], kind, number * plan.rows[kind])
            steps.append(Step(kind, make))
    return steps
