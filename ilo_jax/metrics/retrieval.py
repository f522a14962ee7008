"""Whether a sentence's nearest one in another language is its translation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ilo_jax.metrics.arguments import array_errors, choice_errors, refuse
from ilo_jax.metrics.neighbors.cloud import Cloud, centred, usable_points
from ilo_jax.metrics.neighbors.meshes import automatic
from ilo_jax.metrics.neighbors.search import DISTANCES
from ilo_jax.metrics.numerics import own_numerics

# What states computed twice in float32 may differ by.
_ROUNDING = 2.0**-20


@own_numerics()
def retrieval(
    states: Float[Array, "lang sent dim"], *, distance: str = "cosine"
) -> Float[Array, "lang lang"]:
    """Share of the sentences of one language whose nearest in another is their translation.

    In [0, 1]: at [l, m] for sentences of l among all those of m, NaN where l is m. Chance is
    1 / sent. The error rate of Artetxe and Schwenk, "Massively Multilingual Sentence Embeddings
    for Zero-Shot Cross-Lingual Transfer and Beyond" (TACL 2019), section 4.4, is 1 minus
    this; there, too, the direction counts.

    A translation must be nearer than every other sentence by more than rounding can tell, or else
    it does not count: one of two equal sentences is never found, even where their states are
    not equal to the last bit. The slack is what a shift of both points by 2^-20 may do, in
    units of the vectors' length under cosine, of the largest coordinate under euclidean; where all
    states differ by little more than that, fewer are found than there are. An unusable point (not
    finite, or zero under cosine) finds nothing and is not found, but counts as a sentence.

    Works under `jax.jit`, `jax.vmap` and `jax.lax.map`.

    Cost: 2 (lang sent)^2 dim operations, and memory for sent^2 distances beside two copies of
    the states.

    Args:
        states: The i-th sentences of all languages say the same.
        distance: "cosine" or "euclidean".

    Raises:
        ValueError: If states are not floats "lang sent dim", if there are fewer than two languages
            or sentences, or the distance is another.
    """
    refuse(array_errors("states", states, axes="lang sent dim", of="floats"))
    refuse(_errors(states, distance))
    return _retrieval(automatic(states), distance=distance)


def _errors(states: Float[Array, "lang sent dim"], distance: Any) -> list[str]:
    lang, sent, _ = states.shape
    errors = []
    if lang < 2 or sent < 2:
        errors.append(f"there must be at least 2 languages of 2 sentences, got {lang} of {sent}")
    return errors + choice_errors("distance", distance, DISTANCES)


@partial(jax.jit, static_argnames="distance")
def _retrieval(states: Float[Array, "lang sent dim"], *, distance: str) -> Array:
    lang, sent, dim = states.shape
    points = states.reshape(lang * sent, dim).astype(jnp.float32)
    cloud = centred(points, usable_points(points, distance=distance), distance=distance)
    by_language = Cloud(*(part.reshape(lang, sent, *part.shape[1:]) for part in cloud))

    def from_one(queries: Cloud) -> Float[Array, " lang"]:
        return lax.map(lambda keys: jnp.mean(_found(queries, keys), dtype=jnp.float32), by_language)

    shares = lax.map(from_one, by_language)
    return jnp.where(jnp.eye(lang, dtype=bool), jnp.nan, shares)


def _found(queries: Cloud, keys: Cloud) -> Bool[Array, " sent"]:
    """True where the key at a query's own place is the nearest by more than rounding."""
    products = jnp.dot(queries.points, keys.points.T, precision=lax.Precision.HIGHEST)
    # Half the squared distance, but for the query's own length and the sign.
    nearness = jnp.where(keys.usable[None], products - keys.squared_norm[None] / 2, -jnp.inf)
    own = jnp.eye(len(products), dtype=bool)
    others = jnp.max(jnp.where(own, -jnp.inf, nearness), axis=1)
    slack = _ROUNDING * (jnp.sqrt(queries.squared_norm) + jnp.sqrt(keys.squared_norm))
    nearest = jnp.diagonal(nearness) - others > slack
    return nearest & queries.usable
