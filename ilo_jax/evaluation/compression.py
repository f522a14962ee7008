"""What text costs those who know bytes only: references for the bits per byte of a model."""

import lzma
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt64

LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**28}]
"""Settings of xz, with a dictionary that 256 MiB of learnt text fit in."""
END = "\0"
"""What stands for the borders of texts, in which it must not be."""


def xz_bits_per_byte(learnt: Sequence[str], held_out: Sequence[str]) -> float:
    """The bits that xz needs for a byte of held-out text when it has read the learnt text.

    The difference between what it makes of both together and of the learnt text alone, so that
    words it has seen there cost as little as repeated ones. Lower is better.

    Args:
        learnt: Texts.
        held_out: Others, of one byte at least.
    """
    before, text = (END.join(texts).encode() for texts in (learnt, held_out))
    packed = [len(lzma.compress(data, filters=LZMA)) for data in (before, before + text)]
    return 8 * (packed[1] - packed[0]) / sum(len(one.encode()) for one in held_out)


def ngram_bits_per_byte(learnt: Sequence[str], held_out: Sequence[str], *, order: int = 5) -> float:
    """The bits for a byte of held-out text under an n-gram model of the learnt text's bytes.

    Of a byte b after the n - 1 bytes before it, c, it has the probability::

        p_n(b | c) = (count(c b) + kinds(c) p_(n-1)(b | c')) / (count(c) + kinds(c))

    where kinds(c) is how many bytes have followed c, and c' is c without its first byte: Witten
    and Bell 1991 (method C) as Chen and Goodman 1998, section 2.5, have it. It ends at the same
    probability for all 256 bytes. Lower is better. Texts begin anew, as they do for a language
    model.

    Args:
        learnt: Texts; no NUL is in them.
        held_out: Others, of one byte at least.
        order: n, from 1 to 8.

    Raises:
        ValueError: If the order is another, or a text has a NUL.
    """
    if not 1 <= order <= 8:
        raise ValueError(f"order must be from 1 to 8, got {order}")
    known, asked = _stream(learnt, order), _stream(held_out, order)
    likely = np.full(len(asked.bytes), 1 / 256)
    for n in range(1, order + 1):
        likely = _interpolated(known, asked, likely, n)
    return float(-np.log2(likely[asked.text]).mean())


class _Stream(NamedTuple):
    """Texts one after the other, with borders between them."""

    bytes: UInt8[np.ndarray, " byte"]
    text: Bool[np.ndarray, " byte"]
    """True where a byte is of a text, not of a border."""


def _stream(texts: Sequence[str], order: int) -> _Stream:
    """Texts, each after a border as long as a context can be."""
    if odd := [str(number) for number, text in enumerate(texts, 1) if END in text]:
        raise ValueError(f"a text must have no NUL, got one in number {', '.join(odd[:10])}")
    border = END * max(1, order - 1)
    data = np.frombuffer("".join(border + text for text in texts).encode(), np.uint8)
    return _Stream(data, data > 0)


def _interpolated(
    known: _Stream, asked: _Stream, shorter: Float64[np.ndarray, " byte"], n: int
) -> Float64[np.ndarray, " byte"]:
    """The probability of every byte under an n-gram model, from that under one of n - 1."""
    grams, counts = np.unique(_grams(known.bytes, n)[known.text], return_counts=True)
    contexts, first, kinds = np.unique(grams >> np.uint64(8), return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first)
    wanted = _grams(asked.bytes, n)
    count = _looked_up(wanted, grams, counts)
    total, kind = (_looked_up(wanted >> np.uint64(8), contexts, of) for of in (totals, kinds))
    return np.divide(count + kind * shorter, total + kind, out=shorter.copy(), where=total > 0)


def _grams(data: UInt8[np.ndarray, " byte"], n: int) -> UInt64[np.ndarray, " byte"]:
    """Each byte with the n - 1 before it, as a number; there are zeros before the first."""
    found = np.zeros(len(data), np.uint64)
    for back in range(n):
        found[back:] |= data[: len(data) - back].astype(np.uint64) << np.uint64(8 * back)
    return found


def _looked_up(
    wanted: UInt64[np.ndarray, " byte"],
    names: UInt64[np.ndarray, " name"],
    values: np.ndarray,
) -> Float64[np.ndarray, " byte"]:
    """The values of names, which are sorted; 0 for others."""
    place = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
    return np.where(names[place] == wanted, values[place], 0).astype(np.float64)
