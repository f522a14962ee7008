"""Measures on arrays of hidden states; each takes arrays and returns a NamedTuple."""

from ilo_jax.metrics.bridging import bridge, reach, touched
from ilo_jax.metrics.choices import ChoiceScores, choices
from ilo_jax.metrics.ilo import IloScores, IloSettings, ilo, tally
from ilo_jax.metrics.neighbors.search import DISTANCES, PRECISIONS, Neighbors, nearest
from ilo_jax.metrics.nulls import ceiling, gaussian
from ilo_jax.metrics.references import ReferencedScores, check_settings, referenced, stacked
from ilo_jax.metrics.retrieval import retrieval

__all__ = [
    "DISTANCES",
    "PRECISIONS",
    "ChoiceScores",
    "IloScores",
    "IloSettings",
    "Neighbors",
    "ReferencedScores",
    "bridge",
    "ceiling",
    "check_settings",
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
