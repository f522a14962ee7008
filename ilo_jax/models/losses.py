"""What a language model pays for the tokens of packed rows."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.corpora.packing import Rows
from ilo_jax.models.transformer import Transformer

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

    Computed in float32, some positions at a time, so that the scores of the whole vocabulary
    are never held for all positions of a large batch.

    Args:
        model: Causal, with a head.
        final: Its last hidden state.
        rows: What it was computed from.

    Raises:
        ValueError: If the checkpoint has no head.
    """
    following = jnp.roll(rows.tokens, -1, axis=1)
    losses = _in_parts(model, final, following)
    return jnp.where(predicted(rows), losses, 0)


def _in_parts(
    model: Transformer, final: Float[Array, "row seq dim"], wanted: Int[Array, "row seq"]
) -> Float[Array, "row seq"]:
    """The cross-entropy of the wanted tokens, by as few parts of the rows as may be."""

    def cross_entropy(part: tuple[Array, Array]) -> Array:
        hidden, tokens = part
        scores = model.logits(hidden).astype(jnp.float32)
        picked = jnp.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(scores, axis=-1) - picked

    row, seq, dim = final.shape
    vocab = model.config.vocab
    devices = 1 if model.mesh is None else _devices(model.mesh, rows=row, vocab=vocab)
    parts = _parts(seq, row * seq * vocab // devices)
    if parts == 1:
        return cross_entropy((final, wanted))
    hidden = jnp.moveaxis(final.reshape(row, parts, -1, dim), 1, 0)
    tokens = jnp.moveaxis(wanted.reshape(row, parts, -1), 1, 0)
    # Kept for differentiation, the parts would add up again.
    found = jax.lax.map(jax.checkpoint(cross_entropy), (hidden, tokens))
    return jnp.moveaxis(found, 0, 1).reshape(row, seq)


def _devices(mesh: Mesh, *, rows: int, vocab: int) -> int:
    """Over how many devices scores are split: rows over "data", the vocabulary over "model"."""
    split = {"data": rows, "model": vocab}
    return math.prod(mesh.shape[axis] for axis, n in split.items() if n % mesh.shape[axis] == 0)


def _parts(seq: int, scores: int) -> int:
    """Into how many equal parts rows are cut, for no more than `SCORES` of a device in one."""
    fitting = (n for n in range(1, seq + 1) if seq % n == 0 and scores <= n * SCORES)
    return next(fitting, seq)
