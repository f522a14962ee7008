"""Stop strings as an automaton over the bytes of tokens, wherever the borders of these fall."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32

from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETE = -1
"""In a table, the state of a text that has a stop string."""


def stop_table(stops: Sequence[str], pieces: Sequence[bytes]) -> Int32[np.ndarray, "state vocab"]:
    """State of a text after each next token, by its state before: how much of a stop string it has.

    A text begins in state 0, and is in `COMPLETE` as soon as its bytes have a stop string, whether
    that ends where a token does or within one. The other states are the beginnings of stop strings:
    a text is in that of the longest one that it ends in (Aho and Corasick 1975; their steps, byte
    by byte, are taken here along each token).

    Args:
        stops: Strings; where there are none, state 0 is the only one.
        pieces: Bytes that each token adds to a text, by id; see `ilo_jax.generation.pieces`.

    Cost: in each state, a step for every byte of every token.

    Raises:
        ValueError: If a stop string is empty.
    """
    if not all(stops):
        raise ValueError("a stop string must have a character, got ''")
    after = _automaton([stop.encode() for stop in stops])
    data = np.frombuffer(b"".join(pieces), np.uint8)
    lengths = np.array([len(piece) for piece in pieces])
    starts = np.cumsum(lengths) - lengths
    table = np.repeat(np.arange(len(after) - 1, dtype=np.int32)[:, None], len(pieces), axis=1)
    for place in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > place)
        table[:, longer] = after[table[:, longer], data[starts[longer] + place]]
    return table


def refuse_special(stops: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse stop strings with a special token, which no text has.

    Args:
        stops: Strings.
        tokenizer: Of the model.

    Raises:
        ValueError: Naming all of them.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    silent = special.union(tokenizer.all_special_tokens)
    problems = [repr(stop) for stop in stops if any(token in stop for token in silent)]
    what = "a stop string must be text, which has no special tokens (give those as end tokens); got"
    refuse(what, problems, inline=True)


def _automaton(stops: Sequence[bytes]) -> Int32[np.ndarray, "state_or_complete 256"]:
    """State after each next byte, by the state before; the last row is that of `COMPLETE`."""
    ways = {stop[:n] for stop in stops for n in range(len(stop) + 1)} | {b""}
    open_ways = sorted((way for way in ways if not any(s in way for s in stops)), key=len)
    states = {way: state for state, way in enumerate(open_ways)}
    after = np.zeros((len(states) + 1, 256), np.int32)
    after[COMPLETE] = COMPLETE
    for way, state in states.items():
        # What does not go further this way goes on from a shorter one, whose row is there.
        after[state] = after[_longest_end(way, states)]
        for byte in range(256):
            if (further := way + bytes([byte])) in ways:
                after[state, byte] = states.get(further, COMPLETE)
    return after


def _longest_end(way: bytes, states: Mapping[bytes, int]) -> int:
    """The state of the longest end of a way, itself excepted, that is one; of nothing, 0."""
    return next((states[end] for n in range(1, len(way)) if (end := way[n:]) in states), 0)
