"""Values that nothing can be computed from, refused by name."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

_KINDS = {"residual": "hidden state", "mlp": "neurons of block"}


def refuse_unusable(
    states: Float[np.ndarray, "layer lang sent dim"],
    *,
    model: str,
    site: str,
    layers: Sequence[int],
    languages: Sequence[str],
) -> None:
    """Stop at vectors that are not finite, or hidden states that have no direction.

    Values that are not finite spread to the sentences packed into the same row.

    Args:
        states: of sentences.
        model: for the message, as are all others.
        site: "residual", or "mlp", whose vectors may be zero.
        layers: of the site.
        languages: codes.

    Raises:
        ValueError: naming model, layer, language and sentence of the first.
    """
    highest = np.maximum(states.max(-1), -states.min(-1))
    _refuse(~np.isfinite(highest), "not finite", f"{model}: {_KINDS[site]}", layers, languages)
    if site == "residual":
        _refuse(highest == 0, "all zero", f"{model}: {_KINDS[site]}", layers, languages)


def refuse_unusable_tokens(
    states: Float[np.ndarray, "token dim"],
    lengths: np.ndarray,
    *,
    model: str,
    site: str,
    layers: Sequence[int],
    languages: Sequence[str],
) -> None:
    """Stop at tokens whose states are not finite.

    Args:
        states: of the tokens of all sentences, one after the other.
        lengths: tokens of each sentence, "lang sent".
        model: for the message, as are all others.
        site: "residual" or "mlp".
        layers: the one of the site.
        languages: codes.

    Raises:
        ValueError: naming model, layer, language and sentence of the first.
    """
    starts = np.cumsum(lengths) - lengths.ravel()
    broken = np.logical_or.reduceat(~np.isfinite(states).all(-1), starts)
    what = f"{model}: tokens of {_KINDS[site]}"
    _refuse(broken.reshape(1, *lengths.shape), "not finite", what, layers, languages)


def _refuse(
    broken: Bool[np.ndarray, "layer lang sent"],
    how: str,
    what: str,
    layers: Sequence[int],
    languages: Sequence[str],
) -> None:
    places = np.argwhere(broken)
    if len(places):
        layer, lang, sent = places[0]
        raise ValueError(
            f"{what} {layers[layer]} of {languages[lang]} sentence {sent + 1} is {how} "
            f"({len(places)} such in all, some perhaps of sentences that shared a row with "
            "the cause)"
        )
