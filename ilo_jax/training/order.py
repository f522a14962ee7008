"""Which rows of a packed text each step learns from, and how they get onto the devices."""

import functools
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Int64

from ilo_jax.corpora.packing import Plan, Rows, Sentences, fill, plan
from ilo_jax.processes import Share, share
from ilo_jax.recipes import digest_of
from ilo_jax.sharding import along_data, place_own


@runtime_checkable
class Batched(Protocol):
    """What gives every step a batch in parts."""

    @property
    def part_rows(self) -> int:
        """Number of rows of each part, on all devices."""
        ...


class Text(NamedTuple):
    """A text in rows, packed once: only their order changes from epoch to epoch."""

    sentences: Sentences
    planned: Plan
    row_length: int

    def digest(self) -> str:
        """The digest of all that is learnt: tokens, what they are for, which share a row."""
        return digest_of([*self.sentences, self.planned])

    def rows(self, numbers: Int[np.ndarray, " row"]) -> Rows:
        """Some rows; -1 is one of padding."""
        planned = np.where(numbers[:, None] >= 0, self.planned[numbers], -1).astype(np.int32)
        return fill(self.sentences, planned, row_length=self.row_length)


class Order(NamedTuple):
    """Which rows are learnt from when.

    A batch has one slot for every row of it, and a row always comes in the same slot: row i in
    slot i modulo the batch. Within a slot the order is drawn anew each epoch. So the same rows
    meet at the same step whatever the number of processes, each of which needs the rows of
    its own slots only; and what comes at a step depends on nothing but its number.
    """

    rows: int
    """Number of rows of the text."""
    parts: int
    """Number of parts of a batch, whose gradients are added up."""
    part_rows: int
    """Number of rows of each part, on all devices."""
    seed: int

    @property
    def batch(self) -> int:
        """Rows of a whole batch."""
        return self.parts * self.part_rows

    @property
    def epoch(self) -> int:
        """Steps in which every row comes once; the last rows of some are padding."""
        return -(-self.rows // self.batch)

    def at(self, step: int) -> Int64[np.ndarray, "part row"]:
        """The numbers of a step's rows; -1 is a row of padding."""
        epoch, within = divmod(step, self.epoch)
        chosen = _shuffled(self.seed, epoch, self.batch, self.epoch)[:, within]
        numbers = chosen * self.batch + np.arange(self.batch)
        return np.where(numbers < self.rows, numbers, -1).reshape(self.parts, self.part_rows)


@functools.lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, slots: int, length: int) -> Int64[np.ndarray, "slot step"]:
    """An order of 0 to length - 1 for every slot of an epoch."""
    orders = np.tile(np.arange(length), (slots, 1))
    return np.random.default_rng([seed, epoch]).permuted(orders, axis=1)


def packed(sentences: Sentences, *, row_length: int) -> Text:
    """Sentences in rows.

    Raises:
        ValueError: Naming sentences that are empty or longer than a row.
    """
    return Text(sentences, plan(sentences.lengths, row_length=row_length), row_length)


def own_slots(order: Batched, part: Share) -> slice:
    """Which rows of every part of a batch a process feeds.

    Raises:
        ValueError: If the rows do not divide over the places along "data".
    """
    places = part.count * part.width
    if order.part_rows % places:
        raise ValueError(
            f"rows (or rows_at_once), computed at a time on {places} devices or groups of them, "
            f"must be a multiple of {places}; got {order.part_rows}"
        )
    own = order.part_rows // part.count
    return slice(part.index * own, (part.index + 1) * own)


def own_rows(order: Order, mesh: Mesh) -> Int64[np.ndarray, " row"]:
    """The numbers of all rows that this process will ever feed, in order."""
    slots = np.arange(order.batch).reshape(order.parts, order.part_rows)
    own = slots[:, own_slots(order, share(mesh))].ravel()
    numbers = np.arange(order.rows)
    return numbers[np.isin(numbers % order.batch, own)]


def place_rows(text: Text, order: Order, step: int, mesh: Mesh) -> Rows:
    """The rows of a step on the devices, each array "part row seq", split along rows."""
    numbers = order.at(step)[:, own_slots(order, share(mesh))]
    rows = text.rows(numbers.ravel())
    return Rows(*(place_parts(array, order.parts, mesh) for array in rows))


def place_parts(array: np.ndarray, parts: int, mesh: Mesh) -> jax.Array:
    """This process's rows of a batch as "part row ..." on all devices."""
    apart = array.reshape(parts, -1, *array.shape[1:])
    return place_own(apart, along_data(mesh, axis=1))
