"""The weights of a model by path, and how they lie on a mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from ilo_jax import sharding
from ilo_jax.models.config import BlockConfig, ModelConfig
from ilo_jax.models.initial import initial_weights
from ilo_jax.models.layers.block import Block
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import AnyMesh

Weights = dict[str, jax.Array]
"""All or some weights of a model, by path, such as "layers/3/attn/q/kernel"."""


def build(config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Transformer:
    """A model from scratch, its weights drawn as the authors of its family draw them."""
    key, model = rngs.params(), Transformer(config, dtype=dtype, rngs=rngs)
    drawn = initial_weights(config.init, shapes(model), key, layers=config.layers)
    put(model, weights(model) | drawn)
    return model


def abstract(config: ModelConfig, *, dtype: DTypeLike, mesh: Mesh | None = None) -> Transformer:
    """The model of a configuration with shapes in place of its weights.

    Args:
        config: Of the model.
        dtype: Of the weights and of the computation.
        mesh: On which the weights will lie; None: on one device.
    """
    bare = dataclasses.replace(config, blocks=())
    model = nnx.eval_shape(lambda: Transformer(bare, dtype=dtype, mesh=mesh, rngs=nnx.Rngs(0)))
    made = {
        block: nnx.eval_shape(partial(_block, block, dim=config.dim, dtype=dtype))
        for block in dict.fromkeys(config.blocks)
    }
    model.config = config
    model.layers = nnx.List([nnx.clone(made[block]) for block in config.blocks])
    return model


def _block(config: BlockConfig, *, dim: int, dtype: DTypeLike) -> Block:
    return Block(config, dim=dim, dtype=dtype, rngs=nnx.Rngs(0))


def shapes(model: Transformer) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every weight of a model, which may be abstract, by path."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {
        "/".join(map(str, keys)): jax.ShapeDtypeStruct(variable.shape, variable.dtype)
        for keys, variable in flat
    }


def abstract_weights(
    model: Transformer, mesh: AnyMesh, *, dtype: DTypeLike, fsdp: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """Every weight of a model by its path, with a shape and how it lies in place of its array.

    Args:
        model: Of which only shapes are looked at; it may be abstract.
        mesh: With axes "data" and "model"; its devices need not be there.
        dtype: Of the weights.
        fsdp: Whether weights are also split over "data".
    """
    lies = shardings(model, mesh, fsdp=fsdp)
    return {
        path: jax.ShapeDtypeStruct(like.shape, dtype, sharding=lies[path])
        for path, like in shapes(model).items()
    }


def weights(model: Transformer) -> Weights:
    """Every weight of a model by its path, such as "layers/3/attn/q/kernel"."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, keys)): variable.get_value() for keys, variable in flat}


def put(model: Transformer, arrays: Mapping[str, jax.Array]) -> None:
    """Give a model, which may be abstract, all its weights."""
    nnx.update(model, _filled(nnx.state(model, nnx.Param), arrays))


def _filled(state: nnx.State, arrays: Mapping[str, jax.Array]) -> nnx.State:
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state([(k, v.replace(arrays["/".join(map(str, k))])) for k, v in flat])


def assembled(like: Transformer, arrays: Mapping[str, jax.Array]) -> Transformer:
    """A new model of the configuration of another, which may be abstract.

    Args:
        like: Gives the structure, and the dtype of the computation.
        arrays: Every weight by its path; under `jax.jit` they may be traced.
    """
    graph, state = nnx.split(like)
    return nnx.merge(graph, _filled(state, arrays))


def assembler(
    config: ModelConfig, mesh: Mesh, *, dtype: DTypeLike, fsdp: bool | None = None
) -> Callable[[Mapping[str, jax.Array]], Transformer]:
    """The function from all weights by path to the model that computes with them.

    It is for use under `jax.jit` or `by_parts`, with the weights an argument: then they are no part
    of what is compiled. Each part casts its own to `dtype`, for as long as it needs them.

    Args:
        config: Of the models.
        mesh: On which the weights lie.
        dtype: To compute in, whatever that of the weights.
        fsdp: Whether weights are split over "data", too, where their gradients are to lie as they
            do; None: gradients lie as the compiler likes.
    """
    like = abstract(config, dtype=dtype, mesh=mesh)
    like.fsdp = fsdp

    def assemble(arrays: Mapping[str, jax.Array]) -> Transformer:
        return assembled(like, arrays)

    return assemble


def shardings(model: Transformer, mesh: AnyMesh, *, fsdp: bool) -> dict[str, NamedSharding]:
    """How every weight of a model, which may be abstract, lies on a mesh.

    Args:
        model: Of which only shapes are looked at.
        mesh: With axes "data" and "model".
        fsdp: Whether weights are also split over "data".
    """
    counts = model.config.axis_counts
    return {
        path: sharding.weight_sharding(path, like.shape, mesh, counts=counts, fsdp=fsdp)
        for path, like in shapes(model).items()
    }
