"""Values that nothing can be computed from, refused by name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Bool, Float, Float32

from ilo_jax.activations.store import Store
from ilo_jax.activations.taps import Tap

_KINDS = {"residual": "hidden state"}
"""What messages call a layer of a site; one of any other is "SITE of block"."""


def _kind(site: str) -> str:
    return _KINDS.get(site, f"{site} of block")


class UnusableError(ValueError):
    """Vectors that nothing can be computed from, told by the first of them."""

    def __init__(self, text: str, language: int):
        """Tell the language by its index, until `naming` knows its name.

        Args:
            text: With {} where the language is named.
            language: By index.
        """
        super().__init__(text.format(f"language {language}"))
        self.text, self.language = text, language


@contextmanager
def naming(model: str, languages: Sequence[str]) -> Iterator[None]:
    """Say of which model and which language an unusable vector is.

    Args:
        model: Its name.
        languages: Their codes, by index.

    Raises:
        ValueError: In place of an `UnusableError`.
    """
    try:
        yield
    except UnusableError as error:
        raise ValueError(f"{model}: {error.text.format(languages[error.language])}") from error


def usable_states(store: Store, tap: Tap) -> Iterator[Float32[np.ndarray, "lang sent dim"]]:
    """Yield what a tap has stored of each of its layers, in their order.

    Args:
        store: In which no language is missing.
        tap: Of pooled states.

    Raises:
        OSError: If a chunk is absent or fails its checksum.
        UnusableError: As `refuse_unusable`.
    """
    for layer in tap.layers:
        states = store.read(tap.name, layer)
        refuse_unusable(states[None], site=tap.site, layers=[layer])
        yield states


def refuse_unusable(
    states: Float[np.ndarray, "layer lang sent dim"],
    *,
    site: str,
    layers: Sequence[int],
    languages: Sequence[int] | None = None,
) -> None:
    """Stop at vectors that are not finite, or hidden states that have no direction.

    Values that are not finite spread to the sentences packed into the same row.

    Args:
        states: Of sentences.
        site: Any; only those of "residual" must not be zero.
        layers: Of the site.
        languages: By index; None: 0, 1, ...

    Raises:
        UnusableError: Naming layer, language and sentence of the first.
    """
    highest = np.maximum(states.max(-1), -states.min(-1))
    languages = range(states.shape[1]) if languages is None else languages
    _refuse(~np.isfinite(highest), "not finite", _kind(site), layers, languages)
    if site == "residual":
        _refuse(highest == 0, "all zero", _kind(site), layers, languages)


def refuse_unusable_tokens(
    states: Float[np.ndarray, "token dim"],
    lengths: np.ndarray,
    *,
    site: str,
    layer: int,
    languages: Sequence[int],
) -> None:
    """Stop at tokens whose states are not finite.

    Args:
        states: Of the tokens of all sentences, one after the other.
        lengths: Tokens of each sentence, "lang sent".
        site: Any.
        layer: Of the site.
        languages: By index.

    Raises:
        UnusableError: Naming layer, language and sentence of the first.
    """
    starts = np.cumsum(lengths) - lengths.ravel()
    broken = np.logical_or.reduceat(~np.isfinite(states).all(-1), starts)
    what = f"tokens of {_kind(site)}"
    _refuse(broken.reshape(1, *lengths.shape), "not finite", what, [layer], languages)


def _refuse(
    broken: Bool[np.ndarray, "layer lang sent"],
    how: str,
    what: str,
    layers: Sequence[int],
    languages: Sequence[int],
) -> None:
    places = np.argwhere(broken)
    if len(places):
        layer, lang, sent = places[0]
        text = (
            f"{what} {layers[layer]} of {{}} sentence {sent + 1} is {how} ({len(places)} such in "
            "all, some perhaps of sentences that shared a row with the cause)"
        )
        raise UnusableError(text, languages[lang])
