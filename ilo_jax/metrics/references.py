"""A score of ILO together with what it would be by chance: the form in which to show it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from ilo_jax.metrics.arguments import array_errors, integer_errors, mesh_errors, refuse
from ilo_jax.metrics.ilo import IloSettings, tally
from ilo_jax.metrics.labels import tally_errors
from ilo_jax.metrics.neighbors.meshes import automatic, automatic_mesh
from ilo_jax.metrics.neighbors.search import nearest, search_errors
from ilo_jax.metrics.nulls import ceiling, gaussian, seed_errors
from ilo_jax.metrics.numerics import own_numerics

DEFAULTS = IloSettings()


class ReferencedScores(NamedTuple):
    """ILO of each language between its references; on devices, or on the host once `stacked`.

    Shares are in [0, 1]; higher means more interlingual. An `ilo` near `ceiling` says that
    languages mix as if they were one, an `ilo` near `gaussian` that the mixing needs no shared
    meaning.
    """

    bridge: Float[Any, "*state lang"]
    """Share of a language's points that touch at least `min_languages` others."""
    reach: Float[Any, "*state lang"]
    """Share of the other languages touched by any point of the language."""
    ilo: Float[Any, "*state lang"]
    """Harmonic mean of `bridge` and `reach`; 0 where either is 0."""
    ceiling: Float[Any, "*state lang"]
    """Mean ILO after shuffling the language labels: perfect mixing."""
    gaussian: Float[Any, "*state lang"]
    """Mean ILO of random clouds of the languages' own means and covariances: no shared meaning."""
    uncertain: Int[Any, "*state lang"]
    """Number of points whose k-th neighbour is decided within rounding, or tied."""
    unusable: Int[Any, "*state lang"]
    """Number of points left out: not finite, or zero under cosine."""
    redone: Int[Any, "*state lang"]
    """Number of points for which products of low precision proved too little."""


def check_settings(settings: IloSettings, *, num_points: int, num_languages: int) -> None:
    """Refuse settings that no states could be scored with.

    Args:
        settings: Of the score and its references.
        num_points: Number of points of all languages together.
        num_languages: Number of languages.

    Raises:
        ValueError: Naming each of them: `k` outside [1, num_points - 1], `min_languages` outside
            [1, min(k, num_languages - 1)], fewer than two languages, more than 2^30 points, an
            unknown distance or precision, fewer than one permutation or draw, a seed outside
            [0, 2^63 - 1]; or settings that are no `IloSettings`.
    """
    if not isinstance(settings, IloSettings):
        raise ValueError(f"settings must be IloSettings, got a {type(settings).__name__}")
    refuse(integer_errors({"num_points": num_points, "num_languages": num_languages}))
    k = settings.k
    errors = search_errors(
        num_points, k=k, distance=settings.distance, precision=settings.precision
    )
    errors += tally_errors(k, min_languages=settings.min_languages, num_languages=num_languages)
    counts = {"permutations": settings.permutations, "draws": settings.draws}
    refuse(errors + integer_errors(counts, least=1) + seed_errors(settings.seed))


@own_numerics()
def referenced(
    states: Float[Array, "lang sent dim"],
    *,
    settings: IloSettings = DEFAULTS,
    mesh: Mesh | None = None,
) -> ReferencedScores:
    """`ilo` of each language with its `ceiling` and its `gaussian` null, in one compiled call.

    ILO measures how languages mix, not whether they mean the same, and noise mixes well: 31
    Gaussian clouds around one point score .999. So a score says something only beside the same
    score of shuffled labels and of clouds without shared meaning. Neighbours are searched for
    once for `ilo` and `ceiling`, and once for every draw of `gaussian`.

    From Wilie et al., "High-Dimensional Interlingual Representations of Large Language Models"
    (SIGTYP 2025, arXiv 2503.11280), section 3; the references are ours. Definitions, departures
    and what unusable points do: `ilo`, `ceiling` and `gaussian`.

    Works under `jax.jit`; `jax.lax.map(referenced, states)` scores states "layer lang sent dim"
    one layer at a time, and `stacked` joins the scores of layers that come one by one. Compiled
    anew for other settings, a seed included. Differentiable nowhere: the gradient is stopped.

    Cost: 1 + `draws` times that of `ilo`, 2 lang sent^2 dim operations for each draw, and
    `permutations` tallies.

    Example:
        >>> states = jax.random.normal(jax.random.key(0), (31, 100, 64))
        >>> scores = referenced(states, settings=IloSettings(k=10, min_languages=5))
        >>> margin = scores.ilo - scores.gaussian

    Args:
        states: One hidden state of each sentence; sentences that are not there may be NaN.
        settings: Of the score and its references; by default the paper's.
        mesh: Devices to share the work, over all its axes; states may lie on it in any way, on
            one process or several, and all of its devices get the scores. None: wherever the
            states are.

    Raises:
        ValueError: If `check_settings` refuses the settings, if states are not floats "lang sent
            dim", or if the mesh is none.
    """
    errors = array_errors("states", states, axes="lang sent dim", of="floats")
    refuse(errors + mesh_errors(mesh))
    lang, sent, _ = states.shape
    check_settings(settings, num_points=lang * sent, num_languages=lang)
    return _referenced(automatic(states), settings=settings, mesh=mesh and automatic_mesh(mesh))


@partial(jax.jit, static_argnames=("settings", "mesh"))
def _referenced(
    states: Float[Array, "lang sent dim"], *, settings: IloSettings, mesh: Mesh | None
) -> ReferencedScores:
    lang, sent, dim = states.shape
    languages = jnp.repeat(jnp.arange(lang, dtype=jnp.int32), sent)
    search: dict[str, Any] = {"k": settings.k, "distance": settings.distance, "mesh": mesh}
    search["precision"] = settings.precision
    counts = {"num_languages": lang, "min_languages": settings.min_languages}
    neighbors = nearest(states.reshape(lang * sent, dim), **search)
    tallied = tally(neighbors, languages, **counts)._asdict()
    # States by language have all their labels.
    del tallied["unlabelled"]
    scores = ReferencedScores(
        ceiling=ceiling(
            neighbors,
            languages,
            seed=settings.seed,
            permutations=settings.permutations,
            **counts,
        ),
        gaussian=gaussian(
            states,
            min_languages=settings.min_languages,
            seed=settings.seed,
            draws=settings.draws,
            **search,
        ),
        **tallied,
    )
    if mesh is None:
        return scores
    return jax.lax.with_sharding_constraint(scores, NamedSharding(mesh, PartitionSpec()))


def stacked(states: Sequence[ReferencedScores]) -> ReferencedScores:
    """The scores of several hidden states as one, on the host, with a leading axis "state".

    Args:
        states: At least one, of the same languages.

    Raises:
        ValueError: If there is none, or if these are no scores of as many languages each.
    """
    states = list(states)
    kinds = sorted({type(state).__name__ for state in states})
    if kinds != ["ReferencedScores"]:
        what = ", ".join(kinds) or "none"
        raise ValueError(f"states must be at least one ReferencedScores, got {what}")
    shapes = sorted({np.shape(state.ilo) for state in states})
    if len(shapes) > 1:
        raise ValueError(f"states must have scores of the same languages, got {shapes}")
    return jax.tree.map(lambda *fields: np.stack(fields), *states)
