"""Interlingual Local Overlap: how far the neighbourhoods of languages mix."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ilo_jax.metrics.arguments import mesh_errors, refuse
from ilo_jax.metrics.bridging import bridge, number_of, reach, touched
from ilo_jax.metrics.labels import count_languages, neighbor_errors, tally_errors
from ilo_jax.metrics.neighbors.meshes import automatic
from ilo_jax.metrics.neighbors.search import Neighbors, nearest, search_errors
from ilo_jax.metrics.numerics import own_numerics


@dataclasses.dataclass(frozen=True, kw_only=True)
class IloSettings:
    """How a hidden state is scored; k, t and distance are the paper's unless others are given.

    Hashable, so that it can be a static argument of `jax.jit`.
    """

    k: int = 5
    """Number of neighbours of a point, in [1, points - 1]."""
    min_languages: int = 3
    """Number t of other languages that a point must touch to bridge, in [1, min(k, lang - 1)]."""
    distance: str = "cosine"
    """"cosine" or "euclidean"."""
    precision: str = "exact"
    """"exact" or "fast": how neighbours are proposed; the certain ones are the same."""
    permutations: int = 20
    """Number of shuffles of the language labels behind the ceiling, at least 1."""
    draws: int = 5
    """Number of random clouds behind the Gaussian null, at least 1."""
    seed: int = 0
    """Seed of the shuffles and of the draws, in [0, 2^63 - 1]."""


class IloScores(NamedTuple):
    """Scores are in [0, 1]; higher means more interlingual."""

    bridge: Float[Array, " lang"]
    """Share of a language's points that touch at least `min_languages` others."""
    reach: Float[Array, " lang"]
    """Share of the other languages touched by any point of the language."""
    ilo: Float[Array, " lang"]
    """Harmonic mean of `bridge` and `reach`; 0 where either is 0."""
    uncertain: Int[Array, " lang"]
    """Points whose k-th neighbour is decided within rounding, or tied."""
    unusable: Int[Array, " lang"]
    """Points left out: not finite, or zero under cosine."""
    redone: Int[Array, " lang"]
    """Points for which products of low precision proved too little, so that float32 decided."""
    unlabelled: Int[Array, ""]
    """Points left out, of all together, because their label is none of the languages."""


@own_numerics()
def ilo(
    states: Float[Array, "lang sent dim"] | Float[Array, "point dim"],
    *,
    languages: Int[Array, " point"] | None = None,
    num_languages: int | None = None,
    k: int = IloSettings.k,
    min_languages: int = IloSettings.min_languages,
    distance: str = IloSettings.distance,
    precision: str = IloSettings.precision,
    mesh: Mesh | None = None,
) -> IloScores:
    """Interlingual Local Overlap of each language, over the points of all languages together.

    A point touches the languages among its k nearest other points, its own excepted, and bridges
    if it touches at least t = `min_languages`:

        bridge(l) = share of l's points that bridge
        reach(l)  = number of languages touched by any point of l / (languages - 1)
        ilo(l)    = 2 bridge reach / (bridge + reach)

    From Wilie et al., "High-Dimensional Interlingual Representations of Large Language Models"
    (SIGTYP 2025, arXiv 2503.11280), section 3, with its k, t and distance as defaults. Where the
    paper's code drops the first hit of each search, which need not be the point itself when
    points coincide, this leaves out the point itself.

    ILO measures how languages mix, not whether they mean the same: show it beside its
    `ceiling` and its `gaussian` null, as `referenced` gives it. Unusable points count as
    dropped. A language without usable points has NaN scores and is no language to reach; where
    fewer than t + 1 languages remain nothing can bridge, so `bridge` and `ilo` are NaN, and where
    no more than k points remain all scores are.

    Works under `jax.jit` and `jax.vmap`; `jax.lax.map(ilo, states)` scores states
    "layer lang sent dim" one layer at a time. Differentiable nowhere: the gradient is stopped.

    Cost: that of `nearest`, 2 point^2 dim operations or half as many.

    Example:
        >>> states = jax.random.normal(jax.random.key(0), (31, 100, 64))
        >>> scores = ilo(states, k=5, min_languages=3, distance="cosine")

    Args:
        states: Sentences by language, or points in any order with a label each.
        languages: With states "point dim", the language of each point in [0, num_languages);
            -1, for padding, or where labels are traced any other one, marks a point that is not
            there, and is counted as `unlabelled`.
        num_languages: With states "point dim", the number of languages.
        k: Number of neighbours.
        min_languages: Number of other languages that a point must touch to bridge.
        distance: "cosine" or "euclidean".
        precision: "exact" or "fast", as for `nearest`; both give the same scores to a language
            without uncertain points.
        mesh: Devices to share the work, as for `nearest`.

    Raises:
        ValueError: If `k` is outside [1, points - 1] or `min_languages` outside [1, min(k,
            languages - 1)], if there are fewer than two languages or more than 2^30 points, if
            the distance, the precision or the mesh is another, if states are no floats, or "point
            dim" without `languages` and `num_languages`, or "lang sent dim" with one of them, or
            if labels are not one for each point, or known and neither a language nor -1.
    """
    count = count_languages(states, languages, num_languages)
    points = automatic(states).reshape(-1, states.shape[-1])
    if languages is None:
        languages = jnp.repeat(jnp.arange(count, dtype=jnp.int32), states.shape[1])
    # Narrower integers could not be compared with the number of languages.
    languages = automatic(languages).astype(jnp.int32)
    errors = search_errors(len(points), k=k, distance=distance, precision=precision)
    errors += tally_errors(k, min_languages=min_languages, num_languages=count)
    refuse(errors + mesh_errors(mesh))
    present = (languages >= 0) & (languages < count)
    neighbors = nearest(
        points, k=k, distance=distance, usable=present, precision=precision, mesh=mesh
    )
    return _tally(neighbors, languages, num_languages=count, min_languages=min_languages)


@own_numerics()
def tally(
    neighbors: Neighbors,
    languages: Int[Array, " point"],
    *,
    num_languages: int,
    min_languages: int,
) -> IloScores:
    """The scores of `ilo`, from neighbours already found.

    Args:
        neighbors: What `nearest` returned.
        languages: Language of each point in [0, num_languages), as for `ilo`.
        num_languages: Number of languages.
        min_languages: Number of other languages that a point must touch to bridge.

    Raises:
        ValueError: If `min_languages` is outside [1, min(k, num_languages - 1)], if there are
            fewer than two languages, or if labels are not one for each point, or known and
            neither a language nor -1.
    """
    refuse(neighbor_errors(neighbors, languages, num_languages=num_languages))
    k = neighbors.index.shape[1]
    refuse(tally_errors(k, min_languages=min_languages, num_languages=num_languages))
    languages = automatic(languages)
    return _tally(neighbors, languages, num_languages=num_languages, min_languages=min_languages)


@partial(jax.jit, static_argnames=("num_languages", "min_languages"))
def _tally(
    neighbors: Neighbors,
    languages: Int[Array, " point"],
    *,
    num_languages: int,
    min_languages: int,
) -> IloScores:
    languages = languages.astype(jnp.int32)
    counted = counted_languages(neighbors, languages)
    touches = touched(neighbors.index, counted, num_languages=num_languages)
    share = bridge(touches, counted, min_languages=min_languages)
    reached = reach(touches, counted)
    total = share + reached
    number = partial(number_of, languages=languages, num_languages=num_languages)
    return IloScores(
        bridge=share,
        reach=reached,
        ilo=2 * share * reached / jnp.where(total == 0, 1.0, total),
        uncertain=number(neighbors.uncertain),
        unusable=number(neighbors.unusable),
        redone=number(neighbors.redone),
        unlabelled=jnp.sum((languages < 0) | (languages >= num_languages), dtype=jnp.int32),
    )


def counted_languages(
    neighbors: Neighbors, languages: Int[Array, " point"]
) -> Int[Array, " point"]:
    """The languages of the points that have neighbours; -1 for all others."""
    return jnp.where(neighbors.index[:, 0] >= 0, languages, -1)
