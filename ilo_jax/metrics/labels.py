"""The languages of points, as callers give them, and what is wrong with them."""

from typing import Any

import jax
import numpy as np

from ilo_jax.metrics.arguments import (
    array_errors,
    integer_errors,
    is_integer,
    kind_errors,
    label_errors,
    length_errors,
    refuse,
)
from ilo_jax.metrics.neighbors.search import Neighbors


def tally_errors(k: Any, *, min_languages: Any, num_languages: Any) -> list[str]:
    """What makes a tally impossible, one sentence each; empty if nothing does."""
    errors = integer_errors({"min_languages": min_languages, "num_languages": num_languages})
    if errors or not is_integer(k):
        return errors
    if num_languages < 2:
        errors.append(f"there must be at least 2 languages, got {num_languages}")
    most = max(1, min(k, num_languages - 1))
    if not 1 <= min_languages <= most:
        errors.append(
            f"min_languages must be in [1, {most}] for k={k} and {num_languages} languages, "
            f"got {min_languages}"
        )
    return errors


def count_languages(states: Any, languages: Any, num_languages: Any) -> int:
    """Number of languages, which the shape of states tells or else the caller, and only one.

    Args:
        states: "lang sent dim", or "point dim" with the others.
        languages: The language of each point, or None.
        num_languages: Their number, or None.

    Raises:
        ValueError: If states are no floats, or "point dim" without `languages` and
            `num_languages`, or "lang sent dim" with one of them, or if there is not one label for
            each point, in [0, num_languages) or -1 as far as labels are known.
    """
    refuse(kind_errors("states", states, of="floats"))
    if states.ndim == 3 and languages is None and num_languages is None:
        refuse(array_errors("states", states, axes="lang sent dim", of="floats"))
        return states.shape[0]
    if states.ndim == 2 and languages is not None and num_languages is not None:
        errors = array_errors("states", states, axes="point dim", of="floats")
        errors += array_errors("languages", languages, axes="point", of="integers")
        errors += integer_errors({"num_languages": num_languages})
        refuse(errors)
        if languages.shape != states.shape[:1]:
            raise ValueError(
                f"languages must have the shape {states.shape[:1]} for states {states.shape}, "
                f"got {languages.shape}"
            )
        refuse(language_errors(languages, num_languages))
        return num_languages
    given = {"languages": languages, "num_languages": num_languages}
    names = [name for name, value in given.items() if value is not None]
    raise ValueError(
        "states must have the shape (lang, sent, dim), or (point, dim) with languages and "
        f"num_languages; got {states.shape} with {' and '.join(names) or 'neither'}"
    )


def language_errors(languages: jax.Array | np.ndarray, num_languages: Any) -> list[str]:
    """Whether known labels are neither of a language nor -1, where there are languages at all."""
    if not is_integer(num_languages) or num_languages < 2:
        return []
    return label_errors("languages", languages, below=num_languages, what="language")


def labelled_errors(
    name: str, array: Any, languages: Any, *, axes: str, of: str, num_languages: Any
) -> list[str]:
    """What makes an array, of one row for each point, and labels no points of languages."""
    errors = array_errors(name, array, axes=axes, of=of)
    errors += array_errors("languages", languages, axes="point", of="integers")
    if not errors:
        lengths = {"languages": len(languages)}
        errors = length_errors(lengths, expected=len(array), of="points")
    return errors or language_errors(languages, num_languages)


def neighbor_errors(neighbors: Any, languages: Any, *, num_languages: Any) -> list[str]:
    """What makes neighbours and labels no points of languages."""
    if not isinstance(neighbors, Neighbors):
        return [f"neighbors must be what nearest returns, got a {type(neighbors).__name__}"]
    return labelled_errors(
        "neighbors.index",
        neighbors.index,
        languages,
        axes="point k",
        of="integers",
        num_languages=num_languages,
    )
