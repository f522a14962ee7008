"""Which languages points touch, and what follows for theirs."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ilo_jax.metrics.neighbors.meshes import varying_like

# Points whose languages are united at a time.
_UNITED = 4096


@partial(jax.jit, static_argnames="num_languages")
def touched(
    index: Int[Array, "point k"], languages: Int[Array, " point"], *, num_languages: int
) -> Bool[Array, "point lang"]:
    """True where a point has a neighbour of the language and is not itself of it.

    Args:
        index: Neighbours of each point; -1 for none.
        languages: Language of each point; a label outside [0, num_languages) is none.
        num_languages: Number of languages.
    """
    theirs = jnp.where(index >= 0, languages[index], -1)
    # One after the other, for XLA would write an array "point k lang" before reducing it.
    present = reduce(jnp.logical_or, (_members(one, num_languages) for one in theirs.T))
    return present & ~_members(languages, num_languages)


@partial(jax.jit, static_argnames="min_languages")
def bridge(
    touches: Bool[Array, "point lang"], languages: Int[Array, " point"], *, min_languages: int
) -> Float[Array, " lang"]:
    """Share of each language's points that touch at least `min_languages` others, in [0, 1].

    NaN for a language without points, and for all where fewer than `min_languages` + 1 have points.

    Args:
        touches: What `touched` returned.
        languages: Language of each point; a point of any other label does not count.
        min_languages: Number of languages that a point must touch to bridge.
    """
    bridging = jnp.sum(touches, axis=1) >= min_languages
    number = partial(number_of, languages=languages, num_languages=touches.shape[1])
    points = number(jnp.ones(len(languages), bool))
    share = number(bridging) / points
    return jnp.where(jnp.sum(points > 0) > min_languages, share, jnp.nan)


@jax.jit
def reach(
    touches: Bool[Array, "point lang"], languages: Int[Array, " point"]
) -> Float[Array, " lang"]:
    """Share of the other languages touched by any point of each language, in [0, 1].

    NaN for a language without points, and for all where no other has points.

    Args:
        touches: What `touched` returned.
        languages: Language of each point; a point of any other label does not count.
    """
    num_languages = touches.shape[1]
    present = number_of(jnp.ones(len(languages), bool), languages, num_languages) > 0
    padding = -len(languages) % _UNITED
    languages = jnp.pad(languages, (0, padding), constant_values=-1).reshape(-1, _UNITED)
    touches = jnp.pad(touches, ((0, padding), (0, 0))).reshape(-1, _UNITED, num_languages)

    def unite(pairs: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        members = _members(part[0], num_languages).astype(jnp.float32)
        met = jnp.einsum("pl,pm->lm", members, part[1].astype(jnp.float32)) > 0
        return pairs | met, None

    none = varying_like(jnp.zeros((num_languages, num_languages), bool), touches)
    pairs, _ = lax.scan(unite, none, (languages, touches))
    return jnp.sum(pairs, axis=1) / jnp.where(present, jnp.sum(present) - 1, jnp.nan)


def number_of(
    counted: Bool[Array, " point"], languages: Int[Array, " point"], num_languages: int
) -> Int[Array, " lang"]:
    """How many of each language are counted."""
    # A negative place would count from the end.
    places = jnp.where(languages < 0, num_languages, languages)
    return jnp.zeros(num_languages, jnp.int32).at[places].add(counted, mode="drop")


def _members(languages: Int[Array, " point"], num_languages: int) -> Bool[Array, "point lang"]:
    return languages[:, None] == jnp.arange(num_languages)[None]
