"""Which keys of a row the queries are compared with: no more than they may see, in a few cuts."""

from collections.abc import Iterator
from typing import NamedTuple

import jax

SMALLEST = 64
"""Stretches of queries are a multiple of it, so that a product of them is worth its start."""
MOST = 4
"""As many stretches at most: each is compiled by itself."""


class Span(NamedTuple):
    """A stretch of queries, and the stretch of keys that has all that any of them may see."""

    queries: slice
    keys: slice


def _ends(span: Span) -> tuple[tuple[()], tuple[int, ...]]:
    return (), (span.queries.start, span.queries.stop, span.keys.start, span.keys.stop)


def _between(ends: tuple[int, ...], _: tuple[()]) -> Span:
    return Span(slice(*ends[:2]), slice(*ends[2:]))


# A part of what is compiled, where masks are arguments.
jax.tree_util.register_pytree_node(Span, _ends, _between)


def spans(seq: int, *, causal: bool, window: int | None) -> Iterator[Span]:
    """Yield consecutive stretches of the queries of a row, each with its keys.

    A causal row cut into n has (n + 1) / 2n of its pairs left; what lies before the window of a
    whole stretch is left out, too. Where every token may see every other, there is one.

    Args:
        seq: Positions of a row.
        causal: Whether a token sees only itself and those before it.
        window: How many last tokens, its own included, it sees.
    """
    one = not causal and window is None
    size = seq if one else SMALLEST * -(-seq // (MOST * SMALLEST))
    for start in range(0, seq, size):
        end = min(start + size, seq)
        first = 0 if window is None else max(0, start - window + 1)
        yield Span(slice(start, end), slice(first, end if causal else seq))


def compared(seq: int, *, causal: bool, window: int | None) -> int:
    """How many pairs of a query and a key are compared in a row: those of all `spans`.

    Args:
        seq: Positions of a row.
        causal: Whether a token sees only itself and those before it.
        window: How many last tokens, its own included, it sees.
    """
    found = spans(seq, causal=causal, window=window)
    return sum((q.stop - q.start) * (k.stop - k.start) for q, k in found)
