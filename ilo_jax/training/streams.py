"""The documents of one language as one stream of tokens, cut into rows."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64, Integer

from ilo_jax.corpora.packing import Rows
from ilo_jax.corpora.token_files import Ends, TokenFiles


class Stream(NamedTuple):
    """Documents as one stream of tokens, cut into rows.

    A row begins with the last token of the one before, so that each token is learnt once. Nothing
    is padded but the end of the last row.
    """

    shards: tuple[Integer[np.ndarray, " token"], ...]
    """Tokens of documents as they lie on disk."""
    shard: Int64[np.ndarray, " document"]
    """Where each document lies, in the order of the stream."""
    start: Int64[np.ndarray, " document"]
    """Of its tokens in the shard."""
    lengths: Int64[np.ndarray, " document"]
    """Tokens of each."""
    ends: Int64[np.ndarray, " document"]
    """Tokens of the stream up to the end of each."""
    around: Ends
    row_length: int

    @property
    def count(self) -> int:
        """Number of rows."""
        return max(1, -(-(int(self.ends[-1]) - 1) // (self.row_length - 1)))

    def rows(self, numbers: Int64[np.ndarray, " row"]) -> Rows:
        """Some rows of the stream."""
        column = np.arange(self.row_length)
        places = numbers[:, None] * (self.row_length - 1) + column
        real = places < self.ends[-1]
        document = np.searchsorted(self.ends, np.minimum(places, self.ends[-1] - 1), side="right")
        inside = places - self.ends[document] + self.lengths[document]
        first = document == document[:, :1]
        positions = np.where(first, column, inside)
        opening = inside < len(self.around.before)
        special = opening | (inside >= self.lengths[document] - len(self.around.after))
        # What a row has from the one before was learnt there.
        target = ~opening & ((positions > 0) | (inside == 0))
        tokens = self._tokens(document, np.where(real, inside, 0))
        segments = document - document[:, :1] + 1
        return Rows(
            (tokens * real).astype(np.int32),
            (positions * real).astype(np.int32),
            (segments * real).astype(np.int32),
            special & real,
            target & real,
        )

    def _tokens(
        self, document: Int64[np.ndarray, "row seq"], inside: Int64[np.ndarray, "row seq"]
    ) -> Int[np.ndarray, "row seq"]:
        """The tokens at places in documents."""
        shard, place = self.shard[document], self.start[document] + inside
        tokens = np.zeros_like(place)
        for number in np.unique(shard):
            here = shard == number
            tokens[here] = self.shards[number][place[here]]
        return tokens


def stream(files: TokenFiles, *, row_length: int, seed: int) -> Stream:
    """Documents, shuffled, in rows.

    Args:
        files: Tokens of the documents.
        row_length: In tokens.
        seed: Of the order of the documents.
    """
    lengths = np.concatenate(files.lengths).astype(np.int64)
    counts = [len(each) for each in files.lengths]
    starts = [np.cumsum(each, dtype=np.int64) - each for each in files.lengths]
    order = np.random.default_rng(seed).permutation(len(lengths))
    return Stream(
        files.shards,
        np.repeat(np.arange(len(counts)), counts)[order],
        np.concatenate(starts)[order],
        lengths[order],
        np.cumsum(lengths[order]),
        files.ends,
        row_length,
    )
