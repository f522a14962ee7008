"""Torch `transformers`, as `experiments.bench.extract` compares it: the paper's way, and its best.

Attention is what `transformers` chooses (`sdpa`); no head is computed, and no cache kept.
"""

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.bench import timing
from experiments.bench.rivals.extractors import Found, Search
from experiments.bench.rivals.work import Work

BATCH_SIZES = (8, 16, 32, 64)
"""In sentences, of which torch gets the one that it is fastest with."""
TRIED = 3
"""How many stretches of the sentences, sorted by length, are used to find out."""


def use_all_cores() -> int:
    """Let torch compute on all cores of this process; return how many it uses."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


def paper(work: Work) -> Search:
    """`transformers` as the paper's code uses it: one sentence at a time, the mean of each state.

    Without the scores of the vocabulary, which nobody needs here.
    """
    import torch

    ids = [torch.from_numpy(one)[None] for one in work.ids()]

    @torch.inference_mode()
    def search() -> Found:
        found = []
        for one in ids:
            states = work.theirs(input_ids=one.to(work.theirs.device), output_hidden_states=True)
            means = [state[0].mean(0, dtype=torch.float32) for state in states.hidden_states]
            found.append(torch.stack(means).cpu())
        return Found(lambda: torch.stack(found, 1).numpy(), 0.0, "1 sentence")

    return search


def best(work: Work) -> Search:
    """`transformers` at its best: sentences of about one length padded into batches."""
    import torch

    ids = work.ids()
    order = np.argsort(-work.lengths, kind="stable")
    size = work.torch_batch or fastest_size(work, [ids[i] for i in order])
    batches = padded([ids[i] for i in order], size)
    padding = 1 - work.lengths.sum() / sum(tokens.numel() for tokens, _ in batches)

    def search() -> Found:
        # In the order of the sentences.
        vectors = torch.cat(pooled(work.theirs, batches), 1)[:, np.argsort(order)]
        return Found(vectors.numpy, padding, f"{size} sentences")

    return search


def padded(ids: Sequence[np.ndarray], size: int) -> list[tuple[Any, Any]]:
    """Batches of token ids, and of what is True where there is a token."""
    import torch

    batches = []
    for start in range(0, len(ids), size):
        parts = [torch.from_numpy(one) for one in ids[start : start + size]]
        tokens = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        lengths = torch.tensor([len(one) for one in parts])
        batches.append((tokens, torch.arange(tokens.shape[1]) < lengths[:, None]))
    return batches


def pooled(model: Any, batches: Sequence[tuple[Any, Any]]) -> list[Any]:
    """The means over tokens, "layer sent dim" of each batch, on the host."""
    import torch

    found = []
    with torch.inference_mode():
        for batch in batches:
            tokens, real = (array.to(model.device) for array in batch)
            given = {"input_ids": tokens, "attention_mask": real.long()}
            states = model(**given, output_hidden_states=True).hidden_states
            member = real[:, None].to(states[0].dtype)
            sums = torch.stack([torch.bmm(member, state)[:, 0] for state in states])
            found.append(sums.float() / real.sum(1)[:, None])
    return [each.cpu() for each in found]


def fastest_size(work: Work, ids: Sequence[np.ndarray]) -> int:
    """The size of batches with which torch is fastest, tried on some of the sentences.

    Args:
        work: Of which torch's model is used.
        ids: Of each sentence, sorted by length.
    """
    stretch = max(BATCH_SIZES)
    last = max(0, math.ceil(len(ids) / stretch) - 1)
    starts = stretch * np.unique(np.linspace(0, last, TRIED).round().astype(int))
    tried = [ids[start : start + stretch] for start in starts]
    calls = {
        str(size): partial(pooled, work.theirs, [b for part in tried for b in padded(part, size)])
        for size in BATCH_SIZES
    }
    times = timing.alternating(calls, rounds=1)
    seconds = {name: timed.seconds.wall for name, timed in times.items()}
    print("torch, seconds by sentences in a batch:", {n: round(s, 3) for n, s in seconds.items()})
    return int(min(seconds, key=lambda name: seconds[name]))
