"""How often translations are found among sentences, at every hidden state of a model."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ilo_jax.metrics import retrieval


def translations_found(
    states: Iterable[Float[np.ndarray, "lang sent dim"]], *, distance: str
) -> Float[np.ndarray, "state lang lang"]:
    """`retrieval` at hidden states, one after the other; on the host.

    In [0, 1]: at [state, l, m] for sentences of l among all those of m, NaN where l is m. Chance
    is 1 / sent.

    Args:
        states: At least one; the i-th sentences of all languages say the same.
        distance: "cosine" or "euclidean".

    Raises:
        ValueError: If there are fewer than two languages or sentences, or the distance is another.
    """
    return np.stack([np.asarray(retrieval(jnp.asarray(s), distance=distance)) for s in states])
