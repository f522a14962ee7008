"""What documents that nobody learns from cost a causal model, however long they are."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ilo_jax.corpora.continuations import rolling
from ilo_jax.corpora.documents import Documents, place
from ilo_jax.corpora.limits import Limits, refuse_unfit
from ilo_jax.corpora.packing import Windows, windows
from ilo_jax.evaluation.held_out import TextScores
from ilo_jax.evaluation.likelihood import Likelihood, bits_per_byte, predicted_tokens
from ilo_jax.models.transformer import Transformer
from ilo_jax.recipes import digest_of
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LanguageTexts(NamedTuple):
    """Texts of several languages as a model takes them: in windows."""

    languages: tuple[str, ...]
    language: Int[np.ndarray, " sent"]
    """Number of the language of each text."""
    byte_counts: Int[np.ndarray, " sent"]
    """Of each text in UTF-8."""
    windows: Windows
    """Tokens of the texts, in pieces."""

    def digest(self) -> str:
        """The digest of all that the scores depend on beside the model."""
        return digest_of([
            *self.windows.pieces,
            self.windows.sentence,
            self.language,
            self.byte_counts,
        ])


def held_out_texts(documents: Documents, *, most: int) -> dict[str, list[str]]:
    """The held-out documents of each language, by their digest, until their bytes are enough.

    Args:
        documents: Of which those held out, at least one of each language.
        most: Bytes of each language; the first document is there in any case.
    """
    return {language: _first(documents, language, most) for language in documents.languages}


def _first(documents: Documents, language: str, most: int) -> list[str]:
    texts = sorted(documents.held_out(language), key=place)
    sizes = itertools.accumulate(len(text.encode()) for text in texts)
    pairs = enumerate(zip(texts, sizes, strict=True))
    return [text for number, (text, size) in pairs if size <= most or not number]


def as_windows(
    texts: Mapping[str, Sequence[str]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    length: int,
    limits: Limits,
) -> LanguageTexts:
    """Texts of any length, cut into windows.

    Before each text is what `continuations.rolling` puts there. A window begins with the last token
    of the one before it, and what comes first in it is predicted from little: the longer windows
    are, the fewer bits a text costs.

    Args:
        texts: By language.
        tokenizer: Of the model.
        length: Tokens that a window has at most.
        limits: What the model takes.

    Raises:
        ValueError: Naming languages without text, texts with special tokens only, or tokens that
            the model does not take; or if windows are longer than the model's positions.
    """
    empty = [language for language, each in texts.items() if not each]
    refuse("a language must have a text to be judged by, got none in", empty, inline=True)
    _refuse_long(length, limits)
    flat = [text for each in texts.values() for text in each]
    names = [f"{name} text {i}" for name, each in texts.items() for i in range(1, len(each) + 1)]
    tokens = rolling(flat, tokenizer, name=names.__getitem__)
    cut = windows(tokens, length=length)
    refuse_unfit(cut.pieces, limits, name=lambda piece: names[cut.sentence[piece]])
    counts = [len(each) for each in texts.values()]
    sizes = np.array([len(text.encode()) for text in flat])
    return LanguageTexts(tuple(texts), np.repeat(np.arange(len(counts)), counts), sizes, cut)


def _refuse_long(length: int, limits: Limits) -> None:
    if limits.positions and length > limits.positions:
        raise ValueError(
            f"a window must have at most as many tokens as the model has positions, "
            f"{limits.positions}; got {length}"
        )


def document_scores(model: Transformer, texts: LanguageTexts, likelihood: Likelihood) -> TextScores:
    """What the texts of each language cost a model.

    All processes of the mesh must call it, and each gets all of it.

    Args:
        model: Of the configuration that `likelihood` is compiled for.
        texts: From `as_windows`.
        likelihood: From `compiled_likelihood`.

    Raises:
        MemoryError: If a device has too little.
    """
    language = texts.language[texts.windows.sentence]
    found = _by_language(likelihood(model, texts.windows.pieces), language)
    counts = _by_language(predicted_tokens(texts.windows.pieces).astype(np.int64), language)
    sizes = _by_language(texts.byte_counts, texts.language)
    return TextScores(bits_per_byte(found[:, None], sizes[:, None]), -found / counts, counts)


def _by_language(
    values: Int[np.ndarray, " item"] | Float[np.ndarray, " item"],
    language: Int[np.ndarray, " item"],
) -> Int[np.ndarray, " lang"] | Float[np.ndarray, " lang"]:
    """The sums over what is of each language; all have something."""
    sums = np.zeros(language.max() + 1, values.dtype)
    np.add.at(sums, language, values)
    return sums
