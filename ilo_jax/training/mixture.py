"""Rows of documents in several languages, in shares that hold exactly, and their order.

Steps come in blocks, and in every block each language has as many rows as its share of them, in an
order drawn for the block. The rows of a language come one after the other in an order drawn for
each of its epochs. So what comes at a step depends on nothing but its number.
"""

import functools
import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int64

from ilo_jax.corpora.packing import Rows
from ilo_jax.corpora.shares import quotas
from ilo_jax.corpora.token_files import TokenFiles
from ilo_jax.processes import share
from ilo_jax.recipes import digest_of
from ilo_jax.refusals import refuse
from ilo_jax.training.order import own_slots, place_parts
from ilo_jax.training.streams import Stream, stream

LEAST = 100
"""Rows that a block has of every language, at least: shares are met within a hundredth."""


class Slots(NamedTuple):
    """What is in each row of a step."""

    language: Int64[np.ndarray, "part row"]
    """Number of its language."""
    row: Int64[np.ndarray, "part row"]
    """Number of the row among those of the language."""


class Mixture(NamedTuple):
    """Rows of several languages, and which of them each step learns from."""

    languages: tuple[str, ...]
    texts: tuple[Stream, ...]
    """Of each language."""
    digests: tuple[str, ...]
    """Of the tokens of each language."""
    shares: Float[np.ndarray, " lang"]
    """Of the rows, each above 0, together 1."""
    parts: int
    """Number of parts of a batch, whose gradients are added up."""
    part_rows: int
    """Number of rows of each part, on all devices."""
    row_length: int
    seed: int

    @property
    def batch(self) -> int:
        """Rows of a whole batch."""
        return self.parts * self.part_rows

    @property
    def block(self) -> int:
        """Steps of a block, in which every language has `LEAST` rows or more."""
        return int(np.ceil(LEAST / (self.shares.min() * self.batch)))

    @property
    def quotas(self) -> Int64[np.ndarray, " lang"]:
        """Rows of each language in every block."""
        return quotas(self.shares, self.block * self.batch)

    def at(self, step: int) -> Slots:
        """What is in the rows of a step."""
        block, within = divmod(step, self.block)
        of_block = _block(tuple(self.quotas.tolist()), self.seed, block)
        slots = slice(within * self.batch, (within + 1) * self.batch)
        languages, before = (array[slots].tolist() for array in of_block)
        rows = [self._row(*pair) for pair in zip(languages, before, strict=True)]
        shape = self.parts, self.part_rows
        return Slots(np.reshape(languages, shape), np.reshape(rows, shape))

    def _row(self, language: int, before: int) -> int:
        """The row of a language that comes after so many others of it."""
        count = self.texts[language].count
        epoch, within = divmod(before, count)
        return int(_shuffled(self.seed, language, epoch, count)[within])

    def epochs(self, steps: int) -> Float[np.ndarray, " lang"]:
        """How many times the text of each language is gone through in so many steps.

        It is exact after whole blocks.
        """
        rows = self.quotas * (steps / self.block)
        return rows / [text.count for text in self.texts]

    def rows(self, step: int, mesh: Mesh) -> Rows:
        """The rows of a step on the devices, each array "part row seq", split along rows.

        Every process makes its own rows only.

        Args:
            step: Its number, from 0.
            mesh: With an axis "data".

        Raises:
            ValueError: If the rows of a part do not divide over the places along "data".
        """
        slots = self.at(step)
        own = own_slots(self, share(mesh))
        filled = self.filled(slots.language[:, own].ravel(), slots.row[:, own].ravel())
        return Rows(*(place_parts(array, self.parts, mesh) for array in filled))

    def filled(
        self, languages: Int64[np.ndarray, " row"], numbers: Int64[np.ndarray, " row"]
    ) -> Rows:
        """Some rows, in the host's memory.

        Args:
            languages: Number of the language of each.
            numbers: Of each row among those of its language.
        """
        parts, at = [], []
        for language in np.unique(languages):
            own = np.flatnonzero(languages == language)
            parts.append(self.texts[language].rows(numbers[own]))
            at.append(own)
        order = np.argsort(np.concatenate(at))
        return Rows(*(np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True)))

    def digest(self) -> str:
        """The digest of all that is learnt: tokens, shares, how rows are cut and ordered.

        How a batch is cut into parts changes none of its rows, and so not the digest.
        """
        known = json.dumps([self.languages, self.digests]).encode()
        numbers = np.array([self.batch, self.row_length, self.seed, LEAST])
        return digest_of([np.frombuffer(known, np.uint8), self.shares, numbers])


def mixed(
    files: Mapping[str, TokenFiles],
    shares: Mapping[str, float],
    *,
    parts: int,
    part_rows: int,
    row_length: int,
    seed: int,
) -> Mixture:
    """Rows of documents, in shares of their languages.

    Args:
        files: Tokens of each language's documents, from `token_files.tokenized_documents`.
        shares: Of each language, of 1, from `shares.sampled` or `shares.given`.
        parts: Parts of a batch.
        part_rows: Rows of each part.
        row_length: Tokens of a row.
        seed: Of the order of documents, rows and languages.

    Raises:
        ValueError: Naming the numbers that are too small, or languages without a share or tokens.
    """
    least = {"parts": (parts, 1), "part_rows": (part_rows, 1), "row_length": (row_length, 2)}
    small = [f"{name} {got}, of at least {low}" for name, (got, low) in least.items() if got < low]
    refuse("a batch must have parts of rows of tokens, got", small, inline=True)
    other = sorted(files.keys() ^ shares.keys())
    refuse("every language must have both tokens and a share, got one only for", other, inline=True)
    return Mixture(
        tuple(files),
        tuple(stream(each, row_length=row_length, seed=seed) for each in files.values()),
        tuple(each.digest for each in files.values()),
        np.array([shares[language] for language in files]),
        parts,
        part_rows,
        row_length,
        seed,
    )


def token_counts(files: Mapping[str, TokenFiles]) -> dict[str, int]:
    """Tokens of each language's documents, those around them included."""
    return {name: sum(map(len, each.shards)) for name, each in files.items()}


@functools.lru_cache(maxsize=2)
def _block(
    counts: tuple[int, ...], seed: int, block: int
) -> tuple[Int64[np.ndarray, " slot"], Int64[np.ndarray, " slot"]]:
    """The language of every row of a block, and how many of that language came before it."""
    languages = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng([seed, block]).permutation(len(languages))
    before = np.empty_like(languages)
    shuffled = languages[order]
    for language, count in enumerate(counts):
        before[shuffled == language] = block * count + np.arange(count)
    return shuffled, before


@functools.lru_cache(maxsize=256)
def _shuffled(seed: int, language: int, epoch: int, rows: int) -> Int64[np.ndarray, " row"]:
    """An order of the rows of a language for an epoch."""
    return np.random.default_rng([seed, language, epoch]).permutation(rows)
