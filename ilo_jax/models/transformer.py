"""One forward over packed rows, for every decoder and encoder that we read."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.compiling.parts import part
from ilo_jax.corpora.packing import Rows
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.layers.attention import KEPT
from ilo_jax.models.layers.block import Block
from ilo_jax.models.layers.embedding import Embedding
from ilo_jax.models.layers.heads import Head, Scorer
from ilo_jax.models.layers.layout import Layout, Places, layout
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.models.sites import Shown, Visit, Visiting, unvisited
from ilo_jax.sharding import along_data, weight_sharding

M = TypeVar("M", bound=nnx.Module)

PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable,
    jax.checkpoint_policies.save_only_these_names(KEPT),
)
"""What differentiation keeps of a block: its matrix products, and the weights of attention."""


class Ran(NamedTuple):
    """What a forward leaves."""

    value: Float[Array, "batch seq width"]
    """The hidden state behind the last block that was run, or the scores of the vocabulary."""
    shown: Shown
    """What the visit showed, by site and layer."""


Lies = tuple[NamedSharding, ...]
"""How some weights lie, in the order of the leaves of their state; empty: nobody says."""


def cast(weights: nnx.State, dtype: DTypeLike, lies: Lies = ()) -> nnx.State:
    """Weights in the dtype of a computation.

    Args:
        weights: In the dtype in which they are held.
        dtype: Of the computation.
        lies: How they lie, so that their gradients lie likewise.
    """
    leaves, tree = jax.tree.flatten(weights)
    if lies:
        leaves = map(lax.with_sharding_constraint, leaves, lies)
    return jax.tree.unflatten(tree, [leaf.astype(dtype) for leaf in leaves])


class Kind(NamedTuple):
    """What blocks that are compiled once have in common."""

    graph: nnx.GraphDef
    """Their structure, without weights."""
    do: Callable[[str, Any, Array], tuple[Array, Any]]
    """What the visit does at their sites."""
    dtype: DTypeLike
    """To compute in."""
    split: NamedSharding | None
    """How hidden states lie; None: as the compiler likes."""
    lies: Lies
    """How the weights do."""
    remat: bool
    """Whether differentiation keeps nothing but the state before a block. Otherwise it keeps the
    products of matrices, and computes all else again: that is less than XLA would keep of a whole
    model, and no slower."""


@part("kind")
def run_block(
    weights: nnx.State,
    hidden: Float[Array, "batch seq dim"],
    at: Layout,
    given: dict[str, Any],
    *,
    kind: Kind,
) -> tuple[Array, dict[str, Any]]:
    """The hidden state after a block, before a final norm, and what was shown within, by site.

    Args:
        weights: Of the block.
        hidden: The state before it.
        at: The layout of its kind of attention.
        given: What the visit is given at its sites.
        kind: Of the block.
    """

    def run(weights: nnx.State, hidden: Array, given: dict[str, Any]) -> tuple[Array, Any]:
        here = Visiting(kind.do, given)
        block = nnx.merge(kind.graph, cast(weights, kind.dtype, kind.lies))
        return _split(block(hidden, at, here), kind.split), here.shown

    policy = None if kind.remat else PRODUCTS
    return jax.checkpoint(run, policy=policy, prevent_cse=kind.remat)(weights, hidden, given)


def _split(hidden: Array, split: NamedSharding | None) -> Array:
    """A hidden state that lies as told: weights split over "data" would make it whole otherwise."""
    return hidden if split is None else lax.with_sharding_constraint(hidden, split)


class Transformer(nnx.Module):
    """A language model over packed rows, causal or not, put together from its mechanisms.

    It is made inside `jax.jit` from its weights by path (`parameters.assembler`): the weights
    live in a dict, and this is how they compute.
    """

    mesh: Mesh | None
    """Where the weights lie, if over devices: hidden states then stay split over its "data"."""
    fsdp: bool | None = None
    """Whether weights are split over "data", too, where their gradients are to lie as they do;
    None: gradients lie as the compiler likes."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
        rngs: nnx.Rngs,
    ):
        self.config, self.mesh, self.dtype = config, mesh, dtype
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
        seen: Places | None = None,
        remat: bool = False,
    ) -> Ran:
        """Run the blocks over packed rows, and visit every site on the way.

        A site that the visit leaves as it is costs nothing, and under `jax.jit` neither does what
        nobody needs of the rest. State L is after the final norm.

        Args:
            rows: Packed sentences, on devices.
            visit: What is done at which sites.
            hidden: State `blocks.start`, where it is known already; it is not visited again.
                None: it is the embedding of the rows, and `blocks` must start at 0.
            blocks: Consecutive blocks to run; None: all from the first, or from 0, on.
            seen: Where the keys stand that the visit leaves at `keys` and `values`; None: it leaves
                those of the rows, which are whole.
            remat: Whether differentiation keeps only what goes into each block, and computes
                the rest, visits included, again.

        Raises:
            ValueError: If blocks beyond the first are to be run without the state before them.
        """
        blocks = range(self.config.layers) if blocks is None else blocks
        at, shown = self._layout(rows, seen), {}
        if hidden is None:
            if blocks.start:
                raise ValueError(f"blocks from {blocks.start} on need hidden state {blocks.start}")
            hidden, shown = self._embedded(rows, visit)
        for block in blocks:
            hidden, more = self._block(block, hidden, at, visit, remat=remat)
            shown |= more
        return Ran(hidden, shown)

    def _layout(self, rows: Rows, seen: Places | None) -> Layout:
        kinds = (block.attention for block in self.config.blocks)
        places = Places(rows.positions, rows.segments)
        return layout(kinds, places, seen, causal=self.config.causal)

    def _embedded(self, rows: Rows, visit: Visit) -> tuple[Array, Shown]:
        """Hidden state 0, and what the visit showed on the way to it."""
        here = Visiting(visit.do, visit.around(0))
        hidden = self._cast(self.embed, "embed/")(rows.tokens, rows.positions, here)
        hidden = _split(hidden, self._along_data(len(hidden)))
        return here("residual", hidden), here.at(0)

    def _block(
        self, block: int, hidden: Array, at: Layout, visit: Visit, *, remat: bool
    ) -> tuple[Array, Shown]:
        """The hidden state after one block, and what the visit showed on the way to it."""
        graph, weights = nnx.split(self.layers[block])
        lies, split = self._lie(weights, f"layers/{block}/"), self._along_data(len(hidden))
        kind = Kind(graph, visit.do, self.dtype, split, lies, remat)
        at = at.of(self.config.blocks[block].attention)
        hidden, shown = run_block(weights, hidden, at, visit.within(block), kind=kind)
        if block == self.config.layers - 1 and self.norm is not None:
            hidden = self._cast(self.norm, "norm/")(hidden)
        behind = Visiting(visit.do, visit.around(block + 1))
        hidden = behind("residual", hidden)
        within = {(site, block): value for site, value in shown.items()}
        return hidden, within | behind.at(block + 1)

    def _cast(self, module: M, path: str) -> M:
        """A module with weights in the dtype of the computation; `path` is before theirs."""
        graph, weights = nnx.split(module)
        return nnx.merge(graph, cast(weights, self.dtype, self._lie(weights, path)))

    def _lie(self, weights: nnx.State, prefix: str = "") -> Lies:
        """How weights lie, if gradients are to lie likewise; `prefix` is before their paths."""
        if self.mesh is None or self.fsdp is None:
            return ()
        over = partial(
            weight_sharding, mesh=self.mesh, counts=self.config.axis_counts, fsdp=self.fsdp
        )
        flat = nnx.to_flat_state(weights)
        paths = (prefix + "/".join(map(str, keys)) for keys, _ in flat)
        return tuple(over(path, leaf.shape) for path, (_, leaf) in zip(paths, flat, strict=True))

    def _along_data(self, rows: int) -> NamedSharding | None:
        """How hidden states of so many rows lie; None where they do not divide over "data"."""
        if self.mesh is None or rows % self.mesh.shape["data"]:
            return None
        return along_data(self.mesh)

    def score(self, final: Float[Array, "batch seq dim"], *, visit: Visit = unvisited) -> Ran:
        """Score each position's token from the last hidden state, and visit the head's sites.

        A decoder's scores are of the next token, an encoder's of the masked one.

        Args:
            final: State L.
            visit: What is done at which sites of the head.

        Raises:
            ValueError: If the checkpoint has no head.
        """
        here = Visiting(visit.do, visit.around(0))
        graph, weights, lies = self.scorer()
        return Ran(nnx.merge(graph, cast(weights, self.dtype, lies))(final, here), here.at(0))

    def scorer(self) -> tuple[nnx.GraphDef, nnx.State, Lies]:
        """A `Scorer`, the head with all that it needs, in two, and how its weights lie.

        Raises:
            ValueError: If the checkpoint has no head.
        """
        if self.head is None:
            raise ValueError("this checkpoint is a bare backbone: it has no head for logits")
        graph, weights = nnx.split(Scorer(self.head, self.embed.tokens))
        return graph, weights, self._lie(weights)

    def logits(self, final: Float[Array, "batch seq dim"]) -> Float[Array, "batch seq vocab"]:
        """The value of `score`."""
        return self.score(final).value
