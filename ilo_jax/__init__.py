"""Do the languages inside a model share one representation space?

The measures, to be imported into other JAX code. Models, corpora, extraction and fine-tuning are
in `ilo_jax.models`, `ilo_jax.corpora`, `ilo_jax.activations` and `ilo_jax.training`.
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
