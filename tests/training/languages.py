"""Documents of several languages as token files, without a tokenizer."""

import itertools

import numpy as np

from ilo_jax.corpora.token_files import Ends, TokenFiles

BOS, EOS = 1, 2
LENGTH = 16
COUNTS = {"large": 900, "middle": 90, "small": 9}


def files_of(name: str, documents: list[list[int]], *, shard: int = 40) -> TokenFiles:
    """Documents between their ends, so many to a shard."""
    ids = [[BOS, *own, EOS] for own in documents]
    parts = [ids[start : start + shard] for start in range(0, len(ids), shard)]
    shards = tuple(np.array([*itertools.chain.from_iterable(part)], np.uint16) for part in parts)
    lengths = tuple(np.array([len(one) for one in part], np.int32) for part in parts)
    return TokenFiles(shards, lengths, Ends([BOS], [EOS]), name)


def documents_of(language: int, count: int) -> list[list[int]]:
    """Documents of other tokens in each language, from one token to several rows."""
    rng = np.random.default_rng(language)
    first = 1000 * (language + 1)
    return [rng.integers(first, first + 900, n).tolist() for n in rng.integers(1, 50, count)]
