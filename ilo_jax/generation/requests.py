"""What rows are to say, and how: prompts and what is asked of each, as arrays of one batch."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key

from ilo_jax.corpora.limits import Limits, refuse_unfit
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.generation.edits import Edits
from ilo_jax.generation.sampling import Sampling
from ilo_jax.models.config import ModelConfig
from ilo_jax.sharding import along_data, place_loose, place_whole

SMALLEST = 16
"""Slots of a bucket, at least: prompts, and what is said, have a power of two of them."""


class Prompts(NamedTuple):
    """Token ids that are read before a word is said, right-padded into a bucket."""

    tokens: Int[Any, "row seq"]
    lengths: Int[Any, " row"]


class Request(NamedTuple):
    """What is asked of each row."""

    sampling: Sampling
    keys: Key[Array, " row"]
    """Of each row, for its draws."""
    ends: Bool[Any, " vocab"]
    """Which tokens end a text."""
    edits: Edits
    """What is made of the model in each row; empty: nothing."""
    stops: Int[Any, "state vocab"] | None = None
    """An automaton that reads every token that is said, from state 0: the state after each token;
    -1 ends the row. None: there is none."""


def bucket(count: int) -> int:
    """The power of two, at least `SMALLEST`, that has room for so many."""
    return max(SMALLEST, 1 << (count - 1).bit_length())


def prompts(ids: Sequence[Sequence[int]], limits: Limits) -> Prompts:
    """Prompts in one bucket.

    Args:
        ids: Token ids of each.
        limits: What the model takes.

    Raises:
        ValueError: Naming the prompts that the model does not take: empty, longer than its
            positions, or with tokens that it does not have.
    """
    sentences = as_sentences(ids)
    refuse_unfit(sentences, limits, name=lambda index: f"prompt {index + 1}")
    tokens = np.zeros((len(ids), bucket(int(sentences.lengths.max()))), np.int32)
    for row, one in zip(tokens, ids, strict=True):
        row[: len(one)] = one
    return Prompts(tokens, sentences.lengths)


def refuse_speechless(config: ModelConfig) -> None:
    """Refuse models that do not say anything.

    Raises:
        ValueError: If it is an encoder, or has no head.
    """
    if not config.causal or config.head.kind == "none":
        kind = "a decoder" if config.causal else "an encoder"
        head = "without a head" if config.head.kind == "none" else "with a head"
        raise ValueError(f"generation needs a decoder with a head, got {kind} {head}")


def repeated(request: Request, samples: int) -> Request:
    """The request of every row where each prompt is answered several times.

    Each sample has a key of its own, by its prompt's and its number.

    Args:
        request: Of each prompt.
        samples: How many rows are made of each, one after the other.
    """
    keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples)))
    again = partial(np.repeat, repeats=samples)
    return request._replace(
        sampling=jax.tree.map(again, request.sampling),
        keys=keys(request.keys).reshape(-1),
        edits=jax.tree.map(partial(again, axis=1), request.edits),
    )


def place(request: Request, mesh: Mesh) -> Request:
    """A request on the devices of a mesh, its rows over "data"."""
    rows, edits = along_data(mesh), along_data(mesh, axis=1)
    return Request(
        place_whole(request.sampling, rows),
        *place_loose((request.keys, request.ends), mesh),
        edits=place_whole(request.edits, edits),
        stops=place_loose(request.stops, mesh),
    )


def fitted(
    prompts: Prompts, request: Request, config: ModelConfig, *, places: int
) -> tuple[Prompts, Request]:
    """Prompts and request with rows that say nothing, so that all divide over the devices.

    No row says more than the positions of the model have room for.

    Args:
        prompts: Of each row.
        request: Of each row.
        config: Of the model.
        places: Along "data".
    """
    missing = -len(prompts.lengths) % places
    most = np.iinfo(np.int32).max if config.max_positions is None else config.max_positions
    maximum = np.minimum(request.sampling.maximum, most - prompts.lengths)
    more = partial(_more, missing=missing)
    prompts = jax.tree.map(more, prompts)
    edits = jax.tree.map(partial(more, axis=1), request.edits)
    sampling = jax.tree.map(more, request.sampling)._replace(
        maximum=np.pad(maximum, (0, missing)).astype(np.int32)
    )
    keys = request.keys[np.minimum(np.arange(len(prompts.lengths)), len(request.keys) - 1)]
    return prompts, request._replace(sampling=sampling, keys=keys, edits=edits)


def _more(array: np.ndarray, *, missing: int, axis: int = 0) -> np.ndarray:
    """An array with its last row some times more."""
    widths = [(0, missing if number == axis else 0) for number in range(array.ndim)]
    return np.pad(array, widths, mode="edge")
