"""What kept results are known by: the one form of a key, and numbers for what code does.

A result on disk is used again where its key is the same, so a key holds everything that determines
the result: the weights, the token ids themselves rather than the text and the versions of what cut
it up, and the settings. What the code makes of these is in none of them; a recipe counts it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Recipe(NamedTuple):
    """How the code of one kind makes its results, as a number: another number, other results."""

    name: str
    number: int


FORWARD = Recipe("forward", 6)
"""From weights and token ids to what a model shows: hidden states, neurons, sentence embeddings and
log-likelihoods. Raise it when a layer, a site, a pooling or the reading of a family comes to give
other values, rounding included, for the same weights and tokens."""
TRAINING = Recipe("training", 4)
"""From weights and rows of tokens to trained weights. Raise it when a loss, an optimizer, the order
of the rows, the random keys or what is frozen changes for the same settings, or what a
checkpoint holds."""
GENERATION = Recipe("generation", 1)
"""From what a model scores to what it says: the draws, their keys, the order of what is made of the
scores, and where a text ends. Raise it when any of them changes for the same settings."""
SCORES = Recipe("scores", 3)
"""From hidden states and log-likelihoods to scores. Raise it when a metric, a reference or what
bits per byte are divided by changes, or the fields that are kept."""


def key_of(
    *recipes: Recipe, model: Mapping[str, str], tokens: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that determines a result, as plain JSON with a field for each part.

    Args:
        *recipes: Of all code between the model and the result.
        model: The digest of each of its files.
        tokens: `digest_of` the token ids, with their flags and lengths.
        settings: What else the result depends on, by name.

    Raises:
        ValueError: If a setting has the name of another part.
    """
    parts = {
        "recipes": {recipe.name: recipe.number for recipe in recipes},
        "model": dict(model),
        "tokens": tokens,
    }
    if twice := sorted(parts.keys() & settings.keys()):
        raise ValueError(f"a setting must not be named as a part of every key, got {twice}")
    return parts | dict(settings)


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """The SHA-256 of arrays in their order, of types, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
