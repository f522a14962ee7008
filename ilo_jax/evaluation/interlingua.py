"""How interlingual a model's hidden states are, one state after the other."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ilo_jax.metrics import IloSettings, ReferencedScores, referenced, stacked
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
