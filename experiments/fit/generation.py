"""Prompts that are read, and the loop in which a model speaks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding
from jax.typing import DTypeLike
from jaxtyping import PyTree

from experiments.fit.counting import activations
from experiments.fit.workload import Asked, Made, Workload, made_by_parts, made_whole
from experiments.generate import Config
from experiments.generate.edits import read_edits
from ilo_jax.generation.decoding import Decoder
from ilo_jax.generation.edits import held
from ilo_jax.generation.past import begun
from ilo_jax.generation.requests import Prompts, Request, bucket, refuse_speechless
from ilo_jax.generation.sampling import sampling
from ilo_jax.generation.state import State, fresh, lies
from ilo_jax.models import parameters
from ilo_jax.models.cache import Cache
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.flops import forward_flops
from ilo_jax.models.layers.layout import Places
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import AnyMesh, along_data, device_bytes, replicated

SCORES = 6
"""Copies of the scores of a row, in float32, that the choice of a token takes, about."""


class Sizes(NamedTuple):
    """How much is computed at a time."""

    prompts: int
    length: int
    """Of each prompt, which fills its bucket."""
    rows: int
    """All samples of the prompts."""
    room: int
    """For tokens that are said."""


def sizes(config: Config, asked: Asked, *, places: int) -> Sizes:
    """How much a generation computes at a time.

    Args:
        config: Of the generation.
        asked: How long prompts are: `row_length`.
        places: Along "data", over which prompts are split.
    """
    count = max(1, config.rows // config.samples)
    count += -count % places
    length, room = bucket(asked.row_length), bucket(config.max_tokens)
    return Sizes(count, length, count * config.samples, room)


def speech(config: Config, model: Transformer, mesh: AnyMesh, asked: Asked) -> list[Workload]:
    """What a generation computes of a block: its prompts read, and then the tokens.

    Args:
        config: Of the generation.
        model: Abstract.
        mesh: With axes "data" and "model".
        asked: How long prompts are.

    Raises:
        OSError: If the edits are absent.
        ValueError: If the model does not speak, or has no place for the edits.
    """
    refuse_speechless(model.config)
    size = sizes(config, asked, places=mesh.shape["data"])
    dtype, held_in = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype or config.dtype)
    weights = parameters.abstract_weights(model, mesh, dtype=held_in, fsdp=config.fsdp)
    state = abstract_state(model.config, mesh, size, dtype=dtype)
    block = activations(model.config, mesh, fsdp=config.fsdp)

    def beside(tokens: int, scores: int) -> int:
        numbers = tokens // mesh.shape["data"] * block.token + block.weights
        return numbers * dtype.itemsize + scores // mesh.shape["data"] * model.config.vocab * 4

    rows = Prompts(
        _shape((size.prompts, size.length), jnp.int32, along_data(mesh)),
        _shape((size.prompts,), jnp.int32, along_data(mesh)),
    )
    request = abstract_request(config, model.config, mesh, rows=size.prompts)
    each = abstract_request(config, model.config, mesh, rows=size.rows)
    steps = _shape((), jnp.int32, replicated(mesh))

    def decoder() -> Decoder:
        assert isinstance(mesh, Mesh)
        return Decoder(model.config, mesh, dtype=dtype)

    def reading() -> Made:
        start = decoder().starting(size.room, config.samples)
        return made_by_parts(start, weights, rows, request)

    def saying() -> Made:
        progress, cache, shown = state
        lowered = decoder().going.lower(weights, progress, cache, shown, each, steps)
        return made_whole(lowered, name="tokens")

    lengths = np.full(size.prompts, size.length)
    whole = np.full(size.rows, size.length + size.room)
    token = forward_flops(model.config, whole) - forward_flops(model.config, whole - 1)
    scoring = 2 * size.rows * model.config.vocab * model.config.dim
    return [
        Workload(
            f"{size.prompts} prompts of {size.length} tokens, read",
            {"weights": weights, "prompts": (rows, request)},
            beside=beside(size.prompts * size.length, 0) + device_bytes(state.cache),
            operations=forward_flops(model.config, lengths) / mesh.size,
            dtype=config.dtype,
            results=1,
            compile=reading,
        ),
        Workload(
            f"a token of each of {size.rows} rows behind {size.length}, one of up to {size.room}",
            {"weights": weights, "cache": state.cache, "rows": (state.progress, each)},
            beside=beside(size.rows, SCORES * size.rows),
            operations=(token + scoring) / mesh.size,
            dtype=config.dtype,
            results=1,
            compile=saying,
        ),
    ]


def abstract_state(config: ModelConfig, mesh: AnyMesh, size: Sizes, *, dtype: DTypeLike) -> State:
    """The state of a block whose prompts are read, with shapes in place of arrays.

    Args:
        config: Of the model.
        mesh: On which it lies.
        size: Of the block.
        dtype: Of keys and values.
    """
    slots = size.length + size.room
    kinds = [block.attention for block in config.blocks]

    def begin() -> State:
        held = tuple(
            jnp.zeros((size.rows, kind.kv_heads, slots, kind.head_dim), dtype) for kind in kinds
        )
        nowhere, lengths = jnp.zeros((size.rows, slots), jnp.int32), jnp.ones(size.rows, jnp.int32)
        cache = Cache(held, held, Places(nowhere, nowhere), jnp.int32(0))
        past = begun(nowhere[:, : size.length], lengths, positions=slots)
        return fresh(past, cache, lengths, room=size.room)

    like = jax.eval_shape(begin)
    where = jax.tree.broadcast(lies(config, mesh), like)
    return jax.tree.map(lambda array, to: _shape(array.shape, array.dtype, to), like, where)


def abstract_request(config: Config, model: ModelConfig, mesh: AnyMesh, *, rows: int) -> Request:
    """What is asked of rows, with shapes in place of arrays.

    Args:
        config: Of the generation.
        model: Of the model.
        mesh: On which it lies.
        rows: How many.
    """
    along, whole = along_data(mesh), replicated(mesh)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
    states = 1 + sum(len(stop.encode()) - 1 for stop in config.stop_strings)
    edits = held([read_edits(config.edits)] * rows, model)
    return Request(
        _shapes(sampling(rows), along),
        _shape(keys.shape, keys.dtype, whole),
        _shape((model.vocab,), jnp.bool, whole),
        _shapes(edits, along_data(mesh, axis=1)),
        _shape((states, model.vocab), jnp.int32, whole),
    )


def _shapes(arrays: PyTree, sharding: Sharding) -> PyTree:
    return jax.tree.map(lambda array: _shape(array.shape, array.dtype, sharding), arrays)


def _shape(shape: tuple[int, ...], dtype: DTypeLike, sharding: Sharding) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
