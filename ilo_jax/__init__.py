"""Do the languages inside a model share one representation space?

The measures, to be imported into other JAX code. Models, corpora and extraction are in
`ilo_jax.models`, `ilo_jax.corpora` and `ilo_jax.activations`.
"""

from ilo_jax.metrics import (
    IloScores,
    Neighbors,
    bridge,
    ceiling,
    gaussian,
    ilo,
    nearest,
    reach,
    tally,
    touched,
)

__all__ = [
    "IloScores",
    "Neighbors",
    "bridge",
    "ceiling",
    "gaussian",
    "ilo",
    "nearest",
    "reach",
    "tally",
    "touched",
]
