"""What tests read from a model, given the three arrays that a forward looks at."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike

from ilo_jax.corpora.packing import Rows
from ilo_jax.models.sites import reading
from ilo_jax.models.transformer import Transformer


def rows_of(tokens: ArrayLike, positions: ArrayLike, segments: ArrayLike) -> Rows:
    """Rows for a model, which does not ask what a token is for."""
    return Rows(tokens, positions, segments, special=None, target=None)


def shown(
    model: Transformer, site: str, *rows: ArrayLike, show: Callable = lambda value: value
) -> list[Any]:
    """What is made of a site, by layer."""
    ran = model.run(rows_of(*rows), visit=reading(model.config, site, show=show))
    return [ran.shown[key] for key in sorted(ran.shown)]


def states(model: Transformer, *rows: ArrayLike, show: Callable = lambda value: value) -> list[Any]:
    """What is made of each hidden state, embedding first."""
    return shown(model, "residual", *rows, show=show)
