"""Which languages points touch, and what follows for theirs."""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.metrics.arguments import integer_errors, refuse
from ilo_jax.metrics.labels import labelled_errors
from ilo_jax.metrics.neighbors.meshes import varying_like
from ilo_jax.metrics.numerics import own_numerics

# Points whose languages are united at a time.
_UNITED = 4096


@own_numerics()
def touched(
    index: Int[Array, "point k"], languages: Int[Array, " point"], *, num_languages: int
) -> Bool[Array, "point lang"]:
    """True where a point has a neighbour of the language and is not itself of it.

    Args:
        index: Neighbours of each point; -1 for none.
        languages: Language of each point in [0, num_languages); another label, as for `ilo`, is
            none.
        num_languages: Number of languages.

    Raises:
        ValueError: If these are no integers, or not one label for each point, or if a known label
            is neither a language nor -1, or if there are no languages.
    """
    errors = integer_errors({"num_languages": num_languages}, least=1)
    counts = {"axes": "point k", "of": "integers", "num_languages": num_languages}
    refuse(errors + labelled_errors("index", index, languages, **counts))
    return _touched(index, languages, num_languages=num_languages)


@partial(jax.jit, static_argnames="num_languages")
def _touched(
    index: Int[Array, "point k"], languages: Int[Array, " point"], *, num_languages: int
) -> Bool[Array, "point lang"]:
    languages = languages.astype(jnp.int32)
    theirs = jnp.where(index >= 0, languages[index], -1)
    # One after the other, for XLA would write an array "point k lang" before reducing it.
    present = reduce(jnp.logical_or, (_members(one, num_languages) for one in theirs.T))
    return present & ~_members(languages, num_languages)


@own_numerics()
def bridge(
    touches: Bool[Array, "point lang"], languages: Int[Array, " point"], *, min_languages: int
) -> Float[Array, " lang"]:
    """Share of each language's points that touch at least `min_languages` others, in [0, 1].

    NaN for a language without points, and for all where fewer than `min_languages` + 1 have points.

    Args:
        touches: What `touched` returned.
        languages: Language of each point; a point of any other label does not count.
        min_languages: Number of languages that a point must touch to bridge.

    Raises:
        ValueError: If `touches` are no bools or `languages` no integers, one for each point, if a
            known label is neither a language nor -1, or if `min_languages` is below 1.
    """
    errors = integer_errors({"min_languages": min_languages}, least=1)
    refuse(errors + _touches_errors(touches, languages))
    return _bridge(touches, languages, min_languages=min_languages)


def _touches_errors(touches: Any, languages: Any) -> list[str]:
    """What makes these no languages touched by points of languages."""
    num_languages = touches.shape[-1] if getattr(touches, "ndim", 0) else None
    counts = {"axes": "point lang", "of": "bools", "num_languages": num_languages}
    return labelled_errors("touches", touches, languages, **counts)


@partial(jax.jit, static_argnames="min_languages")
def _bridge(
    touches: Bool[Array, "point lang"], languages: Int[Array, " point"], *, min_languages: int
) -> Float[Array, " lang"]:
    languages = languages.astype(jnp.int32)
    bridging = jnp.sum(touches, axis=1, dtype=jnp.int32) >= min_languages
    number = partial(number_of, languages=languages, num_languages=touches.shape[1])
    points = number(jnp.ones(len(languages), bool))
    share = number(bridging).astype(jnp.float32) / points.astype(jnp.float32)
    return jnp.where(jnp.sum(points > 0, dtype=jnp.int32) > min_languages, share, jnp.nan)


@own_numerics()
def reach(
    touches: Bool[Array, "point lang"], languages: Int[Array, " point"]
) -> Float[Array, " lang"]:
    """Share of the other languages touched by any point of each language, in [0, 1].

    NaN for a language without points, and for all where no other has points.

    Args:
        touches: What `touched` returned.
        languages: Language of each point; a point of any other label does not count.

    Raises:
        ValueError: If `touches` are no bools or `languages` no integers, one for each point, or if
            a known label is neither a language nor -1.
    """
    refuse(_touches_errors(touches, languages))
    return _reach(touches, languages)


@jax.jit
def _reach(
    touches: Bool[Array, "point lang"], languages: Int[Array, " point"]
) -> Float[Array, " lang"]:
    languages = languages.astype(jnp.int32)
    num_languages = touches.shape[1]
    present = number_of(jnp.ones(len(languages), bool), languages, num_languages) > 0
    padding = -len(languages) % _UNITED
    languages = jnp.pad(languages, (0, padding), constant_values=-1).reshape(-1, _UNITED)
    touches = jnp.pad(touches, ((0, padding), (0, 0))).reshape(-1, _UNITED, num_languages)

    def unite(pairs: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        members = _members(part[0], num_languages).astype(jnp.float32)
        others = part[1].astype(jnp.float32)
        # Zeros and ones are exact in any precision, but not one of the caller's for other things.
        met = jnp.einsum("pl,pm->lm", members, others, precision=lax.Precision.DEFAULT) > 0
        return pairs | met, None

    none = varying_like(jnp.zeros((num_languages, num_languages), bool), touches)
    pairs, _ = lax.scan(unite, none, (languages, touches))
    others = jnp.sum(present, dtype=jnp.int32) - 1
    of = jnp.where(present, others.astype(jnp.float32), jnp.nan)
    return jnp.sum(pairs, axis=1, dtype=jnp.int32).astype(jnp.float32) / of


def number_of(
    counted: Bool[Array, " point"], languages: Int[Array, " point"], num_languages: int
) -> Int[Array, " lang"]:
    """How many of each language are counted."""
    # A negative place would count from the end.
    places = jnp.where(languages < 0, num_languages, languages)
    none = jnp.zeros(num_languages, jnp.int32)
    return none.at[places].add(counted.astype(jnp.int32), mode="drop")


def _members(languages: Int[Array, " point"], num_languages: int) -> Bool[Array, "point lang"]:
    return languages[:, None] == jnp.arange(num_languages, dtype=languages.dtype)[None]
