"""How interlingual a model's hidden states are, one state after the other."""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from ilo_jax.metrics import (
    IloSettings,
    ReferencedScores,
    check_settings,
    referenced,
    stacked,
)
from ilo_jax.sharding import make_mesh, naming_knobs, place_whole, replicated

KNOBS = "fewer sentences or languages, precision=fast, or more devices"
"""What to change where memory is short."""


def scored(
    states: Iterable[Float[np.ndarray, "lang sent dim"]], settings: IloSettings
) -> ReferencedScores:
    """`referenced` scores of hidden states, over all devices; "state lang", on the host.

    Each state is on the devices only while it is scored, so that they may come from a store one
    by one. All processes must call it with the same states.

    Args:
        states: At least one, of the same languages and sentences; a model's in their order.
        settings: Of the scores and their references.

    Raises:
        MemoryError: If a device has too little for a state.
        ValueError: If `check_settings` refuses the settings.
    """
    mesh = make_mesh() if jax.device_count() > 1 else None
    scores = []
    for state in states:
        with naming_knobs("{} x {} states, {} wide".format(*state.shape), KNOBS):
            placed = jnp.asarray(state) if mesh is None else place_whole(state, replicated(mesh))
            one = referenced(placed, settings=settings, mesh=mesh)
            scores.append(jax.tree.map(np.asarray, one))
    return stacked(scores)


def lowered(
    state: jax.ShapeDtypeStruct, settings: IloSettings, *, mesh: Mesh
) -> jax.stages.Lowered:
    """The program by which `scored` scores a state over a mesh, its references included.

    Nothing is computed, and the devices of the mesh need not be there: `ilo_jax.topologies` makes
    such.

    Args:
        state: Shape "lang sent dim" and type; every device has it whole, as in `scored`.
        settings: Of the score and its references.
        mesh: The devices that share the search.

    Raises:
        ValueError: If `check_settings` refuses the settings.
    """
    lang, sent, _ = state.shape
    check_settings(settings, num_points=lang * sent, num_languages=lang)
    placed = jax.ShapeDtypeStruct(state.shape, state.dtype, sharding=replicated(mesh))
    return jax.jit(partial(referenced, settings=settings, mesh=mesh)).lower(placed)
