"""What ILO would be by chance: under perfect mixing, and without any shared meaning."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from ilo_jax.metrics.arguments import integer_errors, is_integer, mesh_errors, refuse
from ilo_jax.metrics.ilo import IloSettings, counted_languages, ilo, tally
from ilo_jax.metrics.labels import count_languages, neighbor_errors, tally_errors
from ilo_jax.metrics.neighbors.cloud import usable_points
from ilo_jax.metrics.neighbors.scale import rescaled
from ilo_jax.metrics.neighbors.search import Neighbors, search_errors
from ilo_jax.metrics.numerics import own_numerics


def seed_errors(seed: Any) -> list[str]:
    """What makes a value no seed."""
    if is_integer(seed) and 0 <= seed < 2**63:
        return []
    return [f"seed must be in [0, 2^63 - 1], got {seed!r}"]


def _keys(seed: int, *, number: int) -> Key[Array, " key"]:
    """Random keys of all bits of a seed, whatever the caller's own random numbers are made by."""
    # jax.random.key would drop the upper half of the bits, and is the same for seeds below 2^32.
    words = jnp.asarray(np.array([seed >> 32, seed % 2**32], np.uint32))
    return jax.random.split(jax.random.wrap_key_data(words, impl="threefry2x32"), number)


@own_numerics()
def ceiling(
    neighbors: Neighbors,
    languages: Int[Array, " point"],
    *,
    num_languages: int,
    min_languages: int,
    seed: int,
    permutations: int = IloSettings.permutations,
) -> Float[Array, " lang"]:
    """The ILO of perfect mixing, in [0, 1]: the mean over shuffled language labels.

    The points stay where they are, and so do their neighbours: nothing is searched for again.
    Only points with neighbours and a language trade labels, so every language keeps its number of
    counted points.

    Cost: `permutations` times that of `tally`.

    Args:
        neighbors: What `nearest` returned.
        languages: Language of each point in [0, num_languages), as for `ilo`.
        num_languages: Number of languages.
        min_languages: Number of other languages that a point must touch to bridge.
        seed: Of the permutations, in [0, 2^63 - 1].
        permutations: How many to average over.

    Raises:
        ValueError: As `tally` does, or if `permutations` is below 1 or the seed out of range.
    """
    refuse(neighbor_errors(neighbors, languages, num_languages=num_languages))
    k = neighbors.index.shape[1]
    errors = tally_errors(k, min_languages=min_languages, num_languages=num_languages)
    errors += integer_errors({"permutations": permutations}, least=1)
    refuse(errors + seed_errors(seed))
    return _ceiling(
        neighbors,
        languages,
        _keys(seed, number=permutations),
        num_languages=num_languages,
        min_languages=min_languages,
    )


@partial(jax.jit, static_argnames=("num_languages", "min_languages"))
def _ceiling(
    neighbors: Neighbors,
    languages: Int[Array, " point"],
    keys: Key[Array, " permutation"],
    *,
    num_languages: int,
    min_languages: int,
) -> Float[Array, " lang"]:
    languages = languages.astype(jnp.int32)
    score = partial(tally, neighbors, num_languages=num_languages, min_languages=min_languages)
    counted = counted_languages(neighbors, languages)
    shuffled = lax.map(lambda key: score(_shuffle(key, counted, num_languages)).ilo, keys)
    return jnp.mean(shuffled, axis=0)


def _shuffle(
    key: Key[Array, ""], languages: Int[Array, " point"], num_languages: int
) -> Int[Array, " point"]:
    """Labels in [0, num_languages) permuted among their points; all other labels left alone."""
    order = jax.random.permutation(key, len(languages))
    absent = (languages < 0) | (languages >= num_languages)
    # Both list the points that have a language first: by place, and at random.
    places = jnp.argsort(absent)
    donors = order[jnp.argsort(absent[order])]
    return jnp.where(absent, languages, jnp.zeros_like(languages).at[places].set(languages[donors]))


@own_numerics()
def gaussian(
    states: Float[Array, "lang sent dim"] | Float[Array, "point dim"],
    *,
    languages: Int[Array, " point"] | None = None,
    num_languages: int | None = None,
    k: int,
    min_languages: int,
    distance: str,
    seed: int,
    draws: int = IloSettings.draws,
    precision: str = IloSettings.precision,
    mesh: Mesh | None = None,
) -> Float[Array, " lang"]:
    """The ILO of language clouds of the same shape without shared meaning, in [0, 1].

    The mean over draws in which every point is replaced by one from a Gaussian with its
    language's own mean and covariance:

        drawn = mean + w (X - mean) / sqrt(n - 1),   w ~ N(0, 1) per sentence,

    which needs no covariance matrix and holds when sentences are fewer than dimensions. A sample
    knows its own language better than others do, though: with r = trace(C)^2 / trace(C^2)
    effective dimensions of the covariance C, similarities within a language spread wider by
    sqrt(1 + r / n), so the null reads too low unless r is well below n.

    Unusable points take part neither in the clouds nor in the score. A language of one usable
    point has no covariance: its draw is that point.

    States "point dim" need `languages` to be known: their largest count becomes a shape, so this
    form does not work where labels are traced under `jax.jit`. The other one does.

    Cost: `draws` times that of `ilo`, and 2 lang sent^2 dim operations for each draw; sent^2
    weights of one language at a time.

    Args:
        states: As for `ilo`.
        languages: As for `ilo`.
        num_languages: As for `ilo`.
        k: As for `ilo`.
        min_languages: As for `ilo`.
        distance: As for `ilo`.
        seed: Of the draws, in [0, 2^63 - 1].
        draws: How many to average over.
        precision: As for `ilo`.
        mesh: As for `ilo`; the points are drawn on every device, and searched by all together.

    Raises:
        ValueError: As `ilo` does, or if `draws` is below 1, the seed out of range, labels traced,
            or no point has a language.
    """
    count = count_languages(states, languages, num_languages)
    points = states.size // states.shape[-1]
    errors = search_errors(points, k=k, distance=distance, precision=precision)
    errors += tally_errors(k, min_languages=min_languages, num_languages=count)
    errors += integer_errors({"draws": draws}, least=1)
    refuse(errors + seed_errors(seed) + mesh_errors(mesh))
    return _gaussian(
        states if languages is None else _stacked(states, languages, count),
        _keys(seed, number=draws),
        k=k,
        min_languages=min_languages,
        distance=distance,
        precision=precision,
        mesh=mesh,
    )


def _stacked(
    points: Float[Array, "point dim"], languages: Int[Array, " point"], num_languages: int
) -> Float[Array, "lang sent dim"]:
    """Points by language, in order; shorter languages end in NaN."""
    if isinstance(languages, Tracer):
        raise ValueError(
            "languages must be known for the Gaussian null, got traced ones; close over them "
            'instead of passing them to jax.jit, or give states "lang sent dim"'
        )
    labels = np.asarray(languages)
    if not ((labels >= 0) & (labels < num_languages)).any():
        raise ValueError(f"some label must be in [0, {num_languages}), got none of {len(labels)}")
    members = [np.flatnonzero(labels == language) for language in range(num_languages)]
    # One past the last point: filled with NaN.
    places = np.full((num_languages, max(map(len, members))), len(points))
    for row, place in zip(places, members, strict=True):
        row[: len(place)] = place
    return jnp.asarray(points).at[places].get(mode="fill", fill_value=jnp.nan)


@partial(jax.jit, static_argnames=("k", "min_languages", "distance", "precision", "mesh"))
def _gaussian(
    states: Float[Array, "lang sent dim"],
    keys: Key[Array, " draw"],
    *,
    k: int,
    min_languages: int,
    distance: str,
    precision: str,
    mesh: Mesh | None,
) -> Float[Array, " lang"]:
    states = _near_one(states, distance=distance)

    def score(key: Key[Array, ""]) -> Float[Array, " lang"]:
        each = jax.random.split(key, len(states))
        drawn = lax.map(lambda cloud: _draw(*cloud, distance=distance), (each, states))
        settings = {"k": k, "min_languages": min_languages, "distance": distance}
        return ilo(drawn, precision=precision, mesh=mesh, **settings).ilo

    return jnp.mean(lax.map(score, keys), axis=0)


def _near_one(
    states: Float[Array, "lang sent dim"], *, distance: str
) -> Float[Array, "lang sent dim"]:
    """States at a scale at which no mean and no draw of them overflows; NaN where unusable.

    A power of two changes no draw but by itself: one for all under euclidean, and under cosine one
    for each language.
    """
    states = lax.stop_gradient(states).astype(jnp.float32)
    usable = jax.vmap(partial(usable_points, distance=distance))(states)[..., None]
    size = jnp.where(usable, jnp.abs(states), 0.0)
    peak = jnp.max(size, axis=(1, 2) if distance == "cosine" else None, keepdims=True)
    return jnp.where(usable, rescaled(states, peak), jnp.nan)


def _draw(
    key: Key[Array, ""], points: Float[Array, "sent dim"], *, distance: str
) -> Float[Array, "sent dim"]:
    """A point of the usable ones' Gaussian for each of them; NaN in place of all others."""
    points = lax.stop_gradient(points).astype(jnp.float32)
    usable = usable_points(points, distance=distance)
    present = usable[:, None]
    count = jnp.sum(usable, dtype=jnp.int32)
    total = jnp.sum(jnp.where(present, points, 0.0), axis=0)
    mean = total / jnp.maximum(count, 1).astype(jnp.float32)
    centred = jnp.where(present, points - mean[None], 0.0)
    weights = jax.random.normal(key, (len(points), len(points)), jnp.float32)
    spread = jnp.matmul(weights, centred, precision=lax.Precision.HIGHEST)
    drawn = mean[None] + spread / jnp.sqrt(jnp.maximum(count - 1, 1).astype(jnp.float32))
    return jnp.where(present, drawn, jnp.nan)
