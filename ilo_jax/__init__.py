"""Do the languages inside a model share one representation space?

The measures, to be imported into other JAX code. Corpora, models, extraction, evaluation and
training are in `ilo_jax.corpora`, `ilo_jax.models`, `ilo_jax.activations`, `ilo_jax.evaluation` and
`ilo_jax.training`.
"""

from ilo_jax.metrics import (
    ChoiceScores,
    IloScores,
    IloSettings,
    Neighbors,
    ReferencedScores,
    bridge,
    ceiling,
    choices,
    gaussian,
    ilo,
    nearest,
    reach,
    referenced,
    retrieval,
    stacked,
    tally,
    touched,
)

__all__ = [
    "ChoiceScores",
    "IloScores",
    "IloSettings",
    "Neighbors",
    "ReferencedScores",
    "bridge",
    "ceiling",
    "choices",
    "gaussian",
    "ilo",
    "nearest",
    "reach",
    "referenced",
    "retrieval",
    "stacked",
    "tally",
    "touched",
]
