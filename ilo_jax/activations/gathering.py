"""From batches of packed rows back to sentences, languages, and the store."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float, Shaped

from ilo_jax.activations.schedule import Batch, Block, Schedule
from ilo_jax.activations.store import Layout, Store, numpy_dtype
from ilo_jax.activations.taps import Tap
from ilo_jax.activations.usable import refuse_unusable, refuse_unusable_tokens
from ilo_jax.processes import own_part


def layouts(
    taps: Sequence[Tap], *, lang: int, sent: int, longest: int, dtype: str
) -> dict[str, Layout]:
    """The arrays of a store for what taps take, by name.

    Args:
        taps: What is taken.
        lang: How many languages there are.
        sent: How many sentences of each.
        longest: How many tokens a language has at most; only looked at for states of tokens.
        dtype: Of the states in the store.
    """
    arrays = {tap.name: _layout(tap, lang, sent, longest, dtype) for tap in taps}
    if any(tap.pooling == "tokens" for tap in taps):
        arrays["lengths"] = Layout(("lang", "sent"), (lang, sent), "int32")
        arrays["token_ids"] = Layout(("lang", "token"), (lang, longest), "int32")
    return arrays


def _layout(tap: Tap, lang: int, sent: int, longest: int, dtype: str) -> Layout:
    if tap.pooling == "tokens":
        return Layout(("lang", "token", "dim"), (lang, longest, tap.width), dtype, tap.layers)
    shape = (len(tap.layers), lang, sent, tap.width)
    return Layout(("layer", "lang", "sent", "dim"), shape, dtype, tap.layers)


class Gathering:
    """Takes batches in the order of a schedule, and writes each block that is whole."""

    def __init__(self, schedule: Schedule, store: Store, taps: Sequence[Tap]):
        self.schedule, self.store, self.taps = schedule, store, taps
        self._states: dict[str, np.ndarray] = {}
        self._left = 0

    def take(self, batch: Batch, found: Mapping[str, jax.Array]) -> int:
        """Put a batch where it belongs, and write its block if it was the last; count its tokens.

        Raises:
            OSError: If the store cannot be written.
            UnusableError: If something is unusable.
        """
        block = self.schedule.blocks[batch.block]
        if not self._left:
            self._left = len(block.sentences.lengths)
            self._states = {tap.name: self._empty(tap, block) for tap in self.taps}
        for tap in self.taps:
            self._put(tap, block, batch, found[tap.name])
        self._left -= int((batch.plan >= 0).sum())
        if not self._left:
            self._write(block)
        return int((batch.rows.segments > 0).sum())

    def _empty(self, tap: Tap, block: Block) -> Float[np.ndarray, "..."]:
        sentences = block.sentences
        shape = (len(tap.layers), len(sentences.lengths), tap.width)
        if tap.pooling == "tokens":
            shape = (len(sentences.tokens), tap.width)
        dtype = numpy_dtype(self.store.arrays[tap.name].dtype.name)
        return np.full(shape, np.nan, dtype)

    def _put(self, tap: Tap, block: Block, batch: Batch, found: jax.Array) -> None:
        states, lengths = self._states[tap.name], block.sentences.lengths
        if tap.pooling == "tokens":
            values = own_part(found, axis=0)
            row, place = np.nonzero(batch.rows.segments)
            sentence = batch.plan[row, batch.rows.segments[row, place] - 1]
            start = (np.cumsum(lengths) - lengths)[sentence]
            states[start + batch.rows.positions[row, place]] = values[row, place]
            return
        values = own_part(found, axis=1)
        row, segment = np.nonzero(batch.plan >= 0)
        states[:, batch.plan[row, segment]] = values[:, row, segment]

    def _write(self, block: Block) -> None:
        """Write a block's languages, once all of them are known to be usable."""
        count = len(block.languages)
        lengths = block.sentences.lengths.reshape(count, -1)
        parts = [self._checked(tap, block, lengths) for tap in self.taps]
        by_language = dict(zip((tap.name for tap in self.taps), parts, strict=True))
        if "lengths" in self.store.arrays:
            by_language["lengths"] = list(lengths)
            by_language["token_ids"] = _split(block.sentences.tokens, lengths)
        for place, language in enumerate(block.languages):
            self.store.write(language, {name: each[place] for name, each in by_language.items()})

    def _checked(
        self, tap: Tap, block: Block, lengths: Shaped[np.ndarray, "lang sent"]
    ) -> list[Float[np.ndarray, "..."]]:
        """What a tap took from each language."""
        states, languages = self._states.pop(tap.name), block.languages
        if tap.pooling == "tokens":
            (layer,) = tap.layers
            refuse_unusable_tokens(states, lengths, site=tap.site, layer=layer, languages=languages)
            return _split(states, lengths)
        states = states.reshape(len(states), *lengths.shape, -1)
        refuse_unusable(states, site=tap.site, layers=tap.layers, languages=languages)
        return [states[:, place] for place in range(len(languages))]


def _split(
    tokens: Shaped[np.ndarray, "token ..."], lengths: Shaped[np.ndarray, "lang sent"]
) -> list[np.ndarray]:
    return np.split(tokens, np.cumsum(lengths.sum(axis=1))[:-1])
