"""The named places of a forward where a value can be read, and edited before it is used.

    embedding   rows of the token table as the stream gets them, before positions, types and norm
    residual    the hidden states: 0 is the embedding's output, 1..L follow the blocks
    attn_out    what attention adds to the residual stream
    keys        what queries are compared with, normed and rotated, "batch seq kv dim"
    values      what heads mix, "batch seq kv dim"
    heads       each head's mix of values before the output projection, "batch seq head dim"
    neurons     what the MLP projects down
    mlp_out     what the MLP adds to the residual stream
    MAP/input   what a linear map takes, such as attn/q/input or mlp/down/input
    MAP/output  what it gives, its bias included

All others are "batch seq width". A visit may leave more `keys` and `values` than it was given, such
as those of all tokens that were read before: `Transformer.run` is then told where they stand.

A block's sites are numbered by the block, from 0; those of embed/ and head/ have layer 0. A block's
map and its weight have one name: layers/LAYER/MAP/kernel.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from ilo_jax.compiling.parts import part
from ilo_jax.models.config import BlockConfig, ModelConfig

At = tuple[str, int]
"""A site's name and layer."""

Shown = dict[At, Any]
"""What a visit has shown, by site and layer."""

LayerVisit = Callable[[str, Array], Array]
"""A visit inside one layer, which keeps for itself what it shows."""

OUTSIDE = ("embedding", "residual", "embed/", "head/")
"""What the names of sites between and around blocks begin with."""


class Visit(NamedTuple):
    """What is done at some sites of a forward, and what it is done with.

    What is done is a function, what it is done with is data: blocks that are given data of one
    structure at the same sites are compiled once.
    """

    do: Callable[[str, Any, Array], tuple[Array, Any]]
    """From a site's name, what is given there and the value, to the value that the model goes on
    with and what is shown, any pytree of arrays; None shows nothing."""
    given: Mapping[At, Any]
    """Any pytree, by site and layer; elsewhere everything is left as it is."""

    def within(self, block: int) -> dict[str, Any]:
        """What is given at the sites of a block, by name."""
        return {
            site: given
            for (site, layer), given in self.given.items()
            if layer == block and not site.startswith(OUTSIDE)
        }

    def around(self, layer: int) -> dict[str, Any]:
        """What is given at a hidden state, and at the sites of embedding and head for layer 0."""
        return {
            site: given
            for (site, number), given in self.given.items()
            if number == layer and site.startswith(OUTSIDE)
        }


def _leave(site: str, given: Any, value: Array) -> tuple[Array, None]:
    return value, None


unvisited = Visit(_leave, {})
"""The visit that leaves everything as it is and shows nothing."""


def passing(site: str, value: Array) -> Array:
    """Leave every value of a layer as it is."""
    return value


class Visiting:
    """A visit at the sites of one layer, with what it has shown there by name."""

    def __init__(self, do: Callable[[str, Any, Array], tuple[Array, Any]], given: dict[str, Any]):
        self.do, self.given = do, given
        self.shown: dict[str, Any] = {}

    def __call__(self, site: str, value: Array) -> Array:
        """Visit a site; the model goes on with what is returned."""
        if site not in self.given:
            return value
        value, shown = self.do(site, self.given[site], value)
        if shown is not None:
            self.shown[site] = shown
        return value

    def at(self, layer: int) -> Shown:
        """What it has shown, by site and layer."""
        return {(site, layer): shown for site, shown in self.shown.items()}


def reading(
    config: ModelConfig, *sites: str, show: Callable[[Array], Any] = lambda value: value
) -> Visit:
    """The visit that shows every layer of some sites and edits nothing.

    Args:
        config: Of the model that is to be visited.
        sites: Names of sites.
        show: From the value at a site to what is shown of it.
    """

    def read(site: str, given: Any, value: Array) -> tuple[Array, Any]:
        return value, show(value)

    return Visit(read, {at: () for at in widths(config) if at[0] in sites})


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Layer:
    """The number of a layer, known before anything is computed."""

    number: int


def visiting(
    function: Callable[[str, int, Array], tuple[Array, Any]], config: ModelConfig
) -> Visit:
    """The visit of a function at every site.

    It may do something else in each layer; so each block is compiled by itself.

    Args:
        function: From a site's name, its layer and the value there to the value that the model
            goes on with, and what is shown.
        config: Of the model that is to be visited.
    """

    def do(site: str, layer: _Layer, value: Array) -> tuple[Array, Any]:
        return function(site, layer.number, value)

    return Visit(do, {at: _Layer(at[1]) for at in widths(config)})


class Edit(NamedTuple):
    """What is made of a value x at a site: `scale * x + shift`.

    Both broadcast against the value, so that one compiled forward serves every concept, row and
    strength. Setting a unit scales it by 0 and shifts it to its value; adding a vector scales by
    1; zeroing a head scales it by 0.
    """

    scale: Float[Array, "..."]
    shift: Float[Array, "..."]


def editing(edits: Mapping[At, Edit], config: ModelConfig) -> Visit:
    """The visit that edits some sites and shows nothing.

    Args:
        edits: By site and layer.
        config: Of the model that is to be visited.

    Raises:
        ValueError: Naming all sites and layers that the model does not have.
    """
    there = widths(config)
    absent = [f"{site}@{layer}" for site, layer in edits if (site, layer) not in there]
    if absent:
        names = ", ".join(dict.fromkeys(site for site, _ in there))
        raise ValueError(
            f"an edit must be at a site and layer of the model, got {', '.join(absent)}; "
            f"its sites are {names}, its blocks 0 to {config.layers - 1}"
        )
    return Visit(_edit, edits)


def _edit(site: str, edit: Edit, value: Array) -> tuple[Array, None]:
    return _edited(value, edit), None


@part()
def _edited(value: Array, edit: Edit) -> Array:
    return (edit.scale * value + edit.shift).astype(value.dtype)


def in_turn(*visits: Visit) -> Visit:
    """The visit that makes several, each at the value that the one before has left.

    It shows what the last of them that shows something does.
    """

    def do(site: str, given: dict[int, Any], value: Array) -> tuple[Array, Any]:
        shown = None
        for number, own in given.items():
            value, more = visits[number].do(site, own, value)
            shown = shown if more is None else more
        return value, shown

    given: dict[At, dict[int, Any]] = {}
    for number, visit in enumerate(visits):
        for at, own in visit.given.items():
            given.setdefault(at, {})[number] = own
    return Visit(do, given)


def widths(config: ModelConfig) -> dict[tuple[str, int], tuple[int, ...]]:
    """The shape of the value at every site and layer of a model, behind batch and seq."""
    dim = config.dim
    found: dict[tuple[str, int], tuple[int, ...]] = {("embedding", 0): (dim,)}
    found |= {("residual", layer): (dim,) for layer in range(config.layers + 1)}
    for layer, block in enumerate(config.blocks):
        found |= {(site, layer): shape for site, shape in _of_block(block, dim).items()}
    for name, (inputs, outputs) in _outside_blocks(config).items():
        found |= {(f"{name}/input", 0): (inputs,), (f"{name}/output", 0): (outputs,)}
    return found


def _of_block(block: BlockConfig, dim: int) -> dict[str, tuple[int, ...]]:
    attention, neurons = block.attention, block.mlp.dim
    heads = attention.heads, attention.head_dim
    kv = attention.kv_heads, attention.head_dim
    maps = {f"attn/{name}": (dim, width) for name, width in _projections(block).items()}
    maps["attn/o"] = heads[0] * heads[1], dim
    maps |= {f"mlp/{name}": (dim, neurons) for name in ["gate", "up"][not block.mlp.gated :]}
    maps["mlp/down"] = neurons, dim
    shapes: dict[str, tuple[int, ...]] = {"attn_out": (dim,), "keys": kv, "values": kv}
    shapes |= {"heads": heads, "neurons": (neurons,), "mlp_out": (dim,)}
    for name, (inputs, outputs) in maps.items():
        shapes |= {f"{name}/input": (inputs,), f"{name}/output": (outputs,)}
    return shapes


def _projections(block: BlockConfig) -> dict[str, int]:
    attention = block.attention
    heads = {"q": attention.heads, "k": attention.kv_heads, "v": attention.kv_heads}
    return {name: count * attention.head_dim for name, count in heads.items()}


def _outside_blocks(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Width of input and output of the linear maps before and after the blocks."""
    dim, inner = config.dim, config.embedding.inner_dim
    maps = {"embed/project": (inner, dim)} if inner else {}
    if config.head.kind == "none":
        return maps
    maps |= {"head/project": (dim, inner)} if inner else {}
    maps |= {"head/dense": (dim, dim)} if config.head.activation else {}
    return maps | {"head/out": (inner or dim, config.vocab)}
