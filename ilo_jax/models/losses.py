"""What a language model pays for the tokens of packed rows."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.compiling.parts import part
from ilo_jax.corpora.packing import Rows
from ilo_jax.models.transformer import Lies, Transformer, cast

SCORES = 2**26
"""How many scores of the vocabulary a device holds at a time, at most: 256 MiB."""


def predicted(rows: Rows) -> Bool[Array, "row seq"]:
    """Where a token is followed by one of its own segment that is a `target`.

    The first token of a segment is predicted by nobody.
    """
    following = jnp.roll(rows.segments, -1, axis=1) == rows.segments
    wanted = following & (rows.segments > 0) & jnp.roll(rows.target, -1, axis=1)
    return wanted.at[:, -1].set(False)


def next_token_losses(
    model: Transformer, final: Float[Array, "row seq dim"], rows: Rows
) -> Float[Array, "row seq"]:
    """The cross-entropy of the next token at each place, in nats; 0 where not `predicted`.

    See `token_losses`.

    Args:
        model: Causal, with a head.
        final: Its last hidden state.
        rows: What it was computed from.

    Raises:
        ValueError: If the checkpoint has no head.
    """
    counted = predicted(rows)
    return token_losses(model, final, jnp.roll(rows.tokens, -1, axis=1), counted)


def token_losses(
    model: Transformer,
    final: Float[Array, "row seq dim"],
    wanted: Int[Array, "row seq"],
    counted: Bool[Array, "row seq"],
) -> Float[Array, "row seq"]:
    """The cross-entropy of the wanted token at each place, in nats; 0 where it does not count.

    Computed in float32, some positions at a time, so that the scores of the whole vocabulary
    are never held for all positions of a large batch.

    Args:
        model: With a head.
        final: Its last hidden state.
        wanted: Token ids.
        counted: Where they count.

    Raises:
        ValueError: If the checkpoint has no head.
    """
    (row, seq), vocab = wanted.shape, model.config.vocab
    devices = 1 if model.mesh is None else _devices(model.mesh, rows=row, vocab=vocab)
    parts = _parts(seq, row * seq * vocab // devices)
    graph, weights, lies = model.scorer()
    losses = cross_entropies(
        weights, final, wanted, graph=graph, dtype=model.dtype, lies=lies, parts=parts
    )
    return jnp.where(counted, losses, 0)


@part("graph", "dtype", "lies", "parts")
def cross_entropies(
    weights: nnx.State,
    final: Float[Array, "row seq dim"],
    wanted: Int[Array, "row seq"],
    *,
    graph: nnx.GraphDef,
    dtype: DTypeLike,
    lies: Lies,
    parts: int,
) -> Float[Array, "row seq"]:
    """The cross-entropy of the wanted token at each place, in nats.

    Args:
        weights: Of a `Scorer`.
        final: The last hidden state.
        wanted: Token ids.
        graph: Of the `Scorer`.
        dtype: To compute the scores in; the cross-entropy is computed in float32.
        lies: How the weights do.
        parts: Into how many equal parts rows are cut, for the scores of one at a time.
    """

    def of(part: tuple[Array, Array]) -> Array:
        hidden, tokens = part
        scores = nnx.merge(graph, cast(weights, dtype, lies))(hidden).astype(jnp.float32)
        picked = jnp.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(scores, axis=-1) - picked

    if parts == 1:
        return of((final, wanted))
    row, seq, dim = final.shape
    hidden = jnp.moveaxis(final.reshape(row, parts, -1, dim), 1, 0)
    tokens = jnp.moveaxis(wanted.reshape(row, parts, -1), 1, 0)
    # Kept for differentiation, the parts would add up again.
    found = jax.lax.map(jax.checkpoint(of), (hidden, tokens))
    return jnp.moveaxis(found, 0, 1).reshape(row, seq)


def _devices(mesh: Mesh, *, rows: int, vocab: int) -> int:
    """Over how many devices scores are split: rows over "data", the vocabulary over "model"."""
    split = {"data": rows, "model": vocab}
    return math.prod(mesh.shape[axis] for axis, n in split.items() if n % mesh.shape[axis] == 0)


def _parts(seq: int, scores: int) -> int:
    """Into how many equal parts rows are cut, for no more than `SCORES` of a device in one."""
    fitting = (n for n in range(1, seq + 1) if seq % n == 0 and scores <= n * SCORES)
    return next(fitting, seq)
