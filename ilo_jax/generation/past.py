"""What each row of a batch has read and said, in the order in which it did."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Past(NamedTuple):
    """The tokens of each row so far, by position."""

    tokens: Int[Array, "row position"]
    """Padding from `lengths` on."""
    lengths: Int[Array, " row"]
    matches: Int[Array, "row position"]
    """How many tokens before each position are also the last of the row: what followed them once
    may follow them again."""

    @property
    def real(self) -> Bool[Array, "row position"]:
        """Which positions have a token."""
        return jnp.arange(self.tokens.shape[1])[None] < self.lengths[:, None]

    @property
    def last(self) -> Int[Array, " row"]:
        """The last token of each row."""
        return jnp.take_along_axis(self.tokens, self.lengths[:, None] - 1, axis=1)[:, 0]

    def then(self, said: Int[Array, " row"], rows: Bool[Array, " row"]) -> "Past":
        """With a token more in some rows."""
        at = jnp.arange(self.tokens.shape[1])[None] == self.lengths[:, None]
        tokens = jnp.where(at & rows[:, None], said[:, None], self.tokens)
        matches = jnp.where(rows[:, None], _longer(self.matches, tokens, said), self.matches)
        return Past(tokens, self.lengths + rows, matches)

    def put(
        self,
        scores: Float[Array, "row vocab"],
        values: Float[Array, "row position"],
        where: Bool[Array, "row position"],
    ) -> Float[Array, "row vocab"]:
        """Scores with other values for the tokens at some positions."""
        row, vocab = scores.shape
        tokens = jnp.where(where, self.tokens, vocab)
        return scores.at[jnp.arange(row)[:, None], tokens].set(values, mode="drop")


def _longer(
    matches: Int[Array, "row position"],
    tokens: Int[Array, "row position"],
    said: Int[Array, " row"],
) -> Int[Array, "row position"]:
    """What matches become when a token is said: it must be the one before the position, too."""
    grown = jnp.where(tokens == said[:, None], matches + 1, 0)
    return jnp.pad(grown[:, :-1], ((0, 0), (1, 0)))


def begun(tokens: Int[Array, "row seq"], lengths: Int[Array, " row"], *, positions: int) -> Past:
    """The past of rows that have read their prompts.

    Args:
        tokens: Right-padded prompts.
        lengths: Of each.
        positions: There is room for.
    """
    row, seq = tokens.shape
    padded = jnp.pad(tokens, ((0, 0), (0, positions - seq)))

    def read(position: Array, matches: Array) -> Array:
        grown = _longer(matches, padded, padded[:, position])
        return jnp.where((position < lengths)[:, None], grown, matches)

    matches = lax.fori_loop(0, seq, read, jnp.zeros((row, positions), jnp.int32))
    return Past(padded, lengths, matches)
