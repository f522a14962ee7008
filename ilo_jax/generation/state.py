"""How far the rows of a batch have come in what they say, and what they have said, on the host."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int

from ilo_jax.generation.past import Past
from ilo_jax.generation.requests import Request
from ilo_jax.generation.sampling import chosen
from ilo_jax.models.cache import Cache
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.sites import At
from ilo_jax.sharding import AnyMesh, along_data, replicated

RUNNING, END, STOP, MAXIMUM = range(4)
"""Why a row says no more: not yet, an end token, a stop string, as many tokens as it may."""


class Progress(NamedTuple):
    """What the rows have said so far."""

    past: Past
    waiting: Bool[Array, " row"]
    """Whether the last token has not been read yet."""
    ended: Int[Array, " row"]
    """Why the row says no more, or `RUNNING`."""
    read: Int[Array, " row"]
    """How many tokens the prompt has."""
    stop: Int[Array, " row"]
    """State of the automaton of stop strings."""
    number: Int[Array, ""]
    """How many tokens the rows that go on have said."""
    log_likelihoods: Float32[Array, "said row"]


class State(NamedTuple):
    """Where the loop of tokens is."""

    progress: Progress
    cache: Cache
    shown: dict[At, Float[Array, "said row *width"]]


def fresh(past: Past, cache: Cache, maximum: Int[Array, " row"], *, room: int) -> State:
    """The state of rows that have said nothing.

    Args:
        past: Their prompts.
        cache: Of all but the last token of each prompt.
        maximum: How many tokens each row may say.
        room: For how many tokens there is to be room.
    """
    rows = len(past.lengths)
    ended = jnp.where(maximum > 0, RUNNING, MAXIMUM)
    progress = Progress(
        past=past,
        waiting=ended == RUNNING,
        ended=ended,
        read=past.lengths,
        stop=jnp.zeros(rows, jnp.int32),
        number=jnp.int32(0),
        log_likelihoods=jnp.zeros((room, rows), jnp.float32),
    )
    return State(progress, cache, {})


def advanced(now: Progress, scores: Float32[Array, "row vocab"], request: Request) -> Progress:
    """The progress once every row that goes on has said a token more."""
    sampling, running = request.sampling, now.ended == RUNNING
    said = chosen(scores, now.past, sampling, request.keys, ends=request.ends, number=now.number)
    stop = now.stop if request.stops is None else request.stops[now.stop, said]
    why = jnp.where(now.number + 1 >= sampling.maximum, MAXIMUM, RUNNING)
    why = jnp.where(stop < 0, STOP, why)
    why = jnp.where(request.ends[said], END, why)
    likelihoods = now.log_likelihoods.at[now.number]
    return Progress(
        past=now.past.then(said, running),
        waiting=running,
        ended=jnp.where(running, why, now.ended),
        read=now.read,
        stop=jnp.maximum(stop, 0),
        number=now.number + 1,
        log_likelihoods=likelihoods.set(_log_likelihood(scores, said), mode="drop"),
    )


def _log_likelihood(
    scores: Float32[Array, "row vocab"], said: Int[Array, " row"]
) -> Float32[Array, " row"]:
    picked = jnp.take_along_axis(scores, said[:, None], axis=1)[:, 0]
    return picked - jax.nn.logsumexp(scores, axis=-1)


def lies(config: ModelConfig, mesh: AnyMesh) -> State:
    """How a state lies on a mesh: rows over "data", heads over "model" where they divide.

    Args:
        config: Of the model.
        mesh: With axes "data" and "model".
    """
    split = config.axis_counts["kv"] % mesh.shape["model"] == 0
    heads: Any = NamedSharding(mesh, PartitionSpec("data", "model" if split else None))
    whole: Any = replicated(mesh)
    rows: Any = along_data(mesh)
    said: Any = along_data(mesh, axis=1)
    progress = Progress(rows, rows, rows, rows, rows, whole, said)
    return State(progress, Cache(heads, heads, rows, whole), said)


class Said(NamedTuple):
    """What the rows have said, on the host."""

    tokens: Int[np.ndarray, "row token"]
    """The end token, or what completed a stop string, included; 0 from `lengths` on."""
    lengths: Int[np.ndarray, " row"]
    """Tokens that each row has said."""
    log_likelihoods: Float32[np.ndarray, "row token"]
    """Of each token given all before it, in nats, by the model's own scores, edits included: before
    any penalty, temperature or cut. 0 from `lengths` on."""
    ended: Int[np.ndarray, " row"]
    """Why each row says no more: `END`, `STOP` or `MAXIMUM`; `RUNNING`: it would go on."""
    shown: dict[At, Float[np.ndarray, "row token *width"]]
    """The values at each site where the tokens were read; 0 from `lengths` on, and where a token
    has not been read yet."""


def said(state: State, mesh: Mesh, *, rows: int) -> Said:
    """What the first rows have said so far, on the host of every process.

    Args:
        state: Of all rows.
        mesh: On which it lies.
        rows: How many are wanted.
    """
    progress, shown = jax.device_get(_everywhere(mesh)((state.progress, state.shown)))
    tokens, read = progress.past.tokens[:rows], progress.read[:rows]
    lengths = progress.past.lengths[:rows] - read
    token = np.arange(len(progress.log_likelihoods))[None]
    at = np.minimum(read[:, None] + token, tokens.shape[1] - 1)
    real = token < lengths[:, None]
    seen = token < (lengths - progress.waiting[:rows])[:, None]
    return Said(
        tokens=np.where(real, np.take_along_axis(tokens, at, axis=1), 0),
        lengths=lengths,
        log_likelihoods=np.where(real, progress.log_likelihoods.T[:rows], 0),
        ended=progress.ended[:rows],
        shown={at: _where(seen, np.moveaxis(held, 1, 0)[:rows]) for at, held in shown.items()},
    )


@cache
def _everywhere(mesh: Mesh) -> Callable[[Any], Any]:
    """The function that puts arrays whole on every device, compiled once for each kind."""
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


def _where(real: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(real.reshape(*real.shape, *[1] * (values.ndim - 2)), values, 0)
