"""Which token is said next: what a request makes of a model's scores, and one draw from them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Float32, Int, Key, UInt32

from ilo_jax.generation.past import Past
from ilo_jax.refusals import refuse


class Sampling(NamedTuple):
    """How the tokens of each row are chosen: arrays, so that one compile serves every setting.

    The processors are those of `transformers`, in its order: repetition penalty, no repeated
    n-gram, minimum of tokens, temperature, top-k, top-p. What is read counts for the first two as
    what is said. Where temperature is 0, the likeliest token is said (greedy).
    """

    temperature: Float[Any, " row"]
    """Divides the scores; from 0, at which nothing is drawn."""
    top_k: Int[Any, " row"]
    """Only the k likeliest tokens are drawn, and those level with the last of them; 0: all."""
    top_p: Float[Any, " row"]
    """Only the likeliest tokens that together have this probability are drawn, in (0, 1]; 1: all.
    A token is left out if those likelier than it have as much already."""
    repetition_penalty: Float[Any, " row"]
    """Divides the positive scores of tokens that were read or said, multiplies their negative
    ones (Keskar et al. 2019); above 0; 1: none."""
    no_repeat_ngram: Int[Any, " row"]
    """No n tokens come twice in a row; 0: they may."""
    minimum: Int[Any, " row"]
    """Tokens said before an end token may be."""
    maximum: Int[Any, " row"]
    """Tokens said at most, from 0."""


Setting = ArrayLike | Sequence[int | float]
"""One for all rows, or one a row."""


def sampling(
    rows: int,
    *,
    temperature: Setting = 0.0,
    top_k: Setting = 0,
    top_p: Setting = 1.0,
    repetition_penalty: Setting = 1.0,
    no_repeat_ngram: Setting = 0,
    minimum: Setting = 0,
    maximum: Setting = 128,
) -> Sampling:
    """The sampling of so many rows: each setting one for all of them, or one a row.

    Raises:
        ValueError: Naming all settings that are out of their range.
    """
    given = Sampling(
        temperature, top_k, top_p, repetition_penalty, no_repeat_ngram, minimum, maximum
    )
    arrays = {
        name: np.broadcast_to(np.asarray(value), (rows,)).astype(_DTYPES[name])
        for name, value in given._asdict().items()
    }
    ranges = {name: (allowed, fine(arrays[name])) for name, (allowed, fine) in _ALLOWED.items()}
    problems = [
        f"{name} must be {allowed}, got {arrays[name][~fine][0]}"
        for name, (allowed, fine) in ranges.items()
        if not fine.all()
    ]
    refuse("sampling cannot be as asked for:", problems)
    return Sampling(**arrays)


_FLOATS = ("temperature", "top_p", "repetition_penalty")
_DTYPES = {name: np.float32 if name in _FLOATS else np.int32 for name in Sampling._fields}
_ALLOWED = {name: ("at least 0", lambda values: values >= 0) for name in Sampling._fields} | {
    "temperature": ("finite and at least 0", lambda t: (t >= 0) & np.isfinite(t)),
    "top_p": ("in (0, 1]", lambda p: (p > 0) & (p <= 1)),
    "repetition_penalty": ("finite and above 0", lambda p: (p > 0) & np.isfinite(p)),
}


def chosen(
    scores: Float32[Array, "row vocab"],
    past: Past,
    sampling: Sampling,
    keys: Key[Array, " row"],
    *,
    ends: Bool[Array, " vocab"],
    number: Int[Array, ""],
) -> Int[Array, " row"]:
    """The token that each row says next.

    What nobody asked for is not computed.

    Args:
        scores: Of the vocabulary, by the model.
        past: What was read and said.
        sampling: How tokens are chosen.
        keys: Of each row; one draw is made with each key and number.
        ends: Which tokens end a text.
        number: How many tokens were said before.
    """
    scores = processed(scores, past, sampling, ends=ends, number=number)
    drawn = lax.cond(
        (sampling.temperature > 0).any(),
        lambda: _drawn(scores, sampling, keys, number),
        lambda: scores,
    )
    return _likeliest(drawn)


def processed(
    scores: Float32[Array, "row vocab"],
    past: Past,
    sampling: Sampling,
    *,
    ends: Bool[Array, " vocab"],
    number: Int[Array, ""],
) -> Float32[Array, "row vocab"]:
    """The scores after repetition penalty, repeated n-grams and minimum: -inf is not said.

    The arguments are those of `chosen`.
    """
    penalty, ngram = sampling.repetition_penalty, sampling.no_repeat_ngram
    scores = lax.cond(
        (penalty != 1).any(), lambda s: _penalised(s, past, penalty), lambda s: s, scores
    )
    scores = lax.cond((ngram > 0).any(), lambda s: _unrepeated(s, past, ngram), lambda s: s, scores)
    early = (number < sampling.minimum)[:, None] & ends[None]
    return jnp.where(early, -jnp.inf, scores)


def _penalised(
    scores: Float32[Array, "row vocab"], past: Past, penalty: Float[Array, " row"]
) -> Float32[Array, "row vocab"]:
    read = jnp.take_along_axis(scores, past.tokens, axis=1)
    by = penalty[:, None]
    return past.put(scores, jnp.where(read < 0, read * by, read / by), past.real)


def _unrepeated(
    scores: Float32[Array, "row vocab"], past: Past, ngram: Int[Array, " row"]
) -> Float32[Array, "row vocab"]:
    """Without the tokens that followed the last n - 1 before."""
    n = ngram[:, None]
    followed = past.real & (n > 0) & (past.matches >= n - 1)
    return past.put(scores, jnp.full(past.tokens.shape, -jnp.inf), followed)


def _drawn(
    scores: Float32[Array, "row vocab"],
    sampling: Sampling,
    keys: Key[Array, " row"],
    number: Int[Array, ""],
) -> Float32[Array, "row vocab"]:
    """Scores with the noise that makes the largest of them a draw (Gumbel 1954), where asked."""
    greedy = (sampling.temperature == 0)[:, None]
    scaled = scores / jnp.where(greedy, 1, sampling.temperature[:, None])
    kept = nucleus(scaled, sampling.top_k, sampling.top_p)
    now = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:]))(now)
    return jnp.where(greedy, scores, kept + noise)


def nucleus(
    scores: Float32[Array, "row vocab"], top_k: Int[Array, " row"], top_p: Float[Array, " row"]
) -> Float32[Array, "row vocab"]:
    """The scores of the k likeliest tokens, and of the p likeliest of those: -inf for all others.

    Both are what is not below a threshold, which is found bit by bit: no vocabulary is sorted, and
    tokens that are level are all kept, or none.

    Args:
        scores: Of the vocabulary.
        top_k: As in `Sampling`.
        top_p: As in `Sampling`.
    """
    ones = jnp.ones(scores.shape, jnp.float32)
    wanted = jnp.where(top_k < scores.shape[1], top_k, 0).astype(jnp.float32)
    scores = lax.cond((wanted > 0).any(), lambda s: _above(s, ones, wanted), lambda s: s, scores)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    wanted = jnp.where(top_p < 1, top_p * weights.sum(-1), 0)
    return lax.cond((top_p < 1).any(), lambda s: _above(s, weights, wanted), lambda s: s, scores)


def _above(
    scores: Float32[Array, "row vocab"],
    weights: Float32[Array, "row vocab"],
    wanted: Float[Array, " row"],
) -> Float32[Array, "row vocab"]:
    """Scores from the highest threshold on that leaves as much weight as wanted; else -inf.

    All are left where nothing is wanted.
    """
    ranks = _ranks(scores)

    def refine(bit: Array, threshold: Array) -> Array:
        higher = threshold | (jnp.uint32(1) << (31 - bit).astype(jnp.uint32))
        left = jnp.where(ranks >= higher[:, None], weights, 0).sum(-1)
        return jnp.where((left >= wanted) & (wanted > 0), higher, threshold)

    threshold = lax.fori_loop(0, 32, refine, jnp.zeros(len(scores), jnp.uint32))
    return jnp.where(ranks >= threshold[:, None], scores, -jnp.inf)


def _ranks(scores: Float32[Array, "..."]) -> UInt32[Array, "..."]:
    """Integers in the order of the scores: their bits, those of negative ones the other way."""
    bits = lax.bitcast_convert_type(scores, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _likeliest(scores: Float32[Array, "row vocab"]) -> Int[Array, " row"]:
    """The first of the highest scores: as argmax, of which XLA makes one slow loop on CPUs."""
    vocab = scores.shape[1]
    level = scores == scores.max(-1, keepdims=True)
    return jnp.where(level, jnp.arange(vocab)[None], vocab - 1).min(-1)
