"""One forward over packed rows, for every decoder and encoder that we read."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.corpora.packing import Rows
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.layers.block import Block
from ilo_jax.models.layers.embedding import Embedding
from ilo_jax.models.layers.heads import Head
from ilo_jax.models.layers.layout import Layout, Places, layout
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.models.sites import Shown, Visit, Visiting, unvisited
from ilo_jax.sharding import along_data


class Ran(NamedTuple):
    """What a forward leaves."""

    value: Float[Array, "batch seq width"]
    """The hidden state behind the last block that was run, or the scores of the vocabulary."""
    shown: Shown
    """What the visit showed, by site and layer."""


class Transformer(nnx.Module):
    """A language model over packed rows, causal or not, put together from its mechanisms.

    It is made inside `jax.jit` from its weights by path (`parameters.assembler`): the weights
    live in a dict, and this is how they compute.
    """

    mesh: Mesh | None
    """Where the weights lie, if over devices: hidden states then stay split over its "data"."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
        rngs: nnx.Rngs,
    ):
        self.config, self.mesh = config, mesh
        self.embed = Embedding(config.embedding, dtype=dtype, rngs=rngs)
        self.layers = nnx.List([
            Block(block, dim=config.dim, dtype=dtype, rngs=rngs) for block in config.blocks
        ])
        final = config.final_norm
        self.norm = Normalize(final, config.dim, dtype=dtype) if final else None
        self.head = None if config.head.kind == "none" else Head(config, dtype=dtype, rngs=rngs)

    def run(
        self,
        rows: Rows,
        *,
        visit: Visit = unvisited,
        hidden: Float[Array, "batch seq dim"] | None = None,
        blocks: range | None = None,
        remat: bool = False,
    ) -> Ran:
        """Run the blocks over packed rows, and visit every site on the way.

        A site that the visit leaves as it is costs nothing, and under `jax.jit` neither does what
        nobody needs of the rest. State L is after the final norm.

        Args:
            rows: Packed sentences, on devices.
            visit: Called once for each site and layer, in the order of the computation.
            hidden: State `blocks.start`, where it is known already; it is not visited again.
                None: it is the embedding of the rows, and `blocks` must start at 0.
            blocks: Consecutive blocks to run; None: all from the first, or from 0, on.
            remat: Whether differentiation keeps only what goes into each block, and computes
                the rest, visits included, again.

        Raises:
            ValueError: If blocks beyond the first are to be run without the state before them.
        """
        blocks = range(self.config.layers) if blocks is None else blocks
        at, shown = self._layout(rows), {}
        if hidden is None:
            if blocks.start:
                raise ValueError(f"blocks from {blocks.start} on need hidden state {blocks.start}")
            hidden, shown = self._embedded(rows, visit)
        for block in blocks:
            step = partial(self._after, block, at=at, visit=visit)
            hidden, more = (jax.checkpoint(step) if remat else step)(hidden)
            shown |= more
        return Ran(hidden, shown)

    def _layout(self, rows: Rows) -> Layout:
        kinds = (block.attention for block in self.config.blocks)
        return layout(kinds, Places(rows.positions, rows.segments), causal=self.config.causal)

    def _embedded(self, rows: Rows, visit: Visit) -> tuple[Array, Shown]:
        """Hidden state 0, and what the visit showed on the way to it."""
        here = Visiting(visit, 0)
        hidden = self._along_data(self.embed(rows.tokens, rows.positions, here))
        return here("residual", hidden), here.shown

    def _after(self, block: int, hidden: Array, *, at: Layout, visit: Visit) -> tuple[Array, Shown]:
        """The hidden state after one block, and what the visit showed on the way to it."""
        here, behind = Visiting(visit, block), Visiting(visit, block + 1)
        hidden = self._along_data(self.layers[block](hidden, at, here))
        if block == self.config.layers - 1 and self.norm is not None:
            hidden = self.norm(hidden)
        return behind("residual", hidden), here.shown | behind.shown

    def _along_data(self, hidden: Float[Array, "batch seq dim"]) -> Array:
        """Keep the batch split, or weights split over "data" would replicate it."""
        if self.mesh is None or hidden.shape[0] % self.mesh.shape["data"]:
            return hidden
        return jax.lax.with_sharding_constraint(hidden, along_data(self.mesh))

    def score(self, final: Float[Array, "batch seq dim"], *, visit: Visit = unvisited) -> Ran:
        """Score each position's token from the last hidden state, and visit the head's sites.

        A decoder's scores are of the next token, an encoder's of the masked one.

        Args:
            final: State L.
            visit: Called once for each site of the head.

        Raises:
            ValueError: If the checkpoint has no head.
        """
        if self.head is None:
            raise ValueError("this checkpoint is a bare backbone: it has no head for logits")
        here = Visiting(visit, 0)
        return Ran(self.head(final, self.embed.tokens.embedding[...], here), here.shown)

    def logits(self, final: Float[Array, "batch seq dim"]) -> Float[Array, "batch seq vocab"]:
        """The value of `score`."""
        return self.score(final).value
