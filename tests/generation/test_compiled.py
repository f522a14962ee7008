"""What a TPU's compiler makes of the loop of tokens; nothing runs, the devices are not there."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ilo_jax import emitted
from ilo_jax.generation.decoding import Decoder
from ilo_jax.generation.past import begun
from ilo_jax.generation.requests import Request
from ilo_jax.generation.sampling import sampling
from ilo_jax.generation.state import State, fresh, lies
from ilo_jax.models import parameters
from ilo_jax.models.cache import Cache
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.layers.layout import Places
from ilo_jax.sharding import along_data, device_bytes, make_mesh, replicated
from ilo_jax.topologies import compiled

DIM, HEADS, VOCAB, LAYERS = 128, 4, 2048, 2
ROWS, SEQ, ROOM = 8, 16, 16
CONFIG = read_config({
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 128,
})


def state() -> State:
    """One of rows that have said nothing."""
    slots = SEQ + ROOM
    held = (jnp.zeros((ROWS, HEADS, slots, DIM // HEADS), jnp.bfloat16),) * LAYERS
    nowhere = jnp.zeros((ROWS, slots), jnp.int32)
    cache = Cache(held, held, Places(nowhere, nowhere), jnp.int32(SEQ - 1))
    tokens, lengths = jnp.zeros((ROWS, SEQ), jnp.int32), jnp.ones(ROWS, jnp.int32)
    past = begun(tokens, lengths, positions=slots)
    return fresh(past, cache, jnp.full(ROWS, ROOM), room=ROOM)


def lying(arrays: Any, sharding: Any) -> Any:
    """Shapes in place of arrays, each lying so."""
    return jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding), arrays
    )


@pytest.fixture(scope="module")
def loop(tpu) -> tuple[jax.stages.Compiled, State]:
    """Return the loop in bfloat16, two by two, and the state that it takes."""
    mesh = make_mesh(data=2, model=2, devices=tpu("v5e:2x2").devices)
    like = parameters.abstract(CONFIG, dtype=jnp.bfloat16, mesh=mesh)
    weights = parameters.abstract_weights(like, mesh, dtype=jnp.bfloat16, fsdp=False)
    whole, rows = replicated(mesh), along_data(mesh)
    lie = lies(CONFIG, mesh)._replace(shown={})
    taken = jax.tree.map(
        lambda sharding, part: lying(part, sharding),
        lie,
        jax.eval_shape(state),
        is_leaf=lambda one: isinstance(one, jax.sharding.Sharding),
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
    ends = jax.ShapeDtypeStruct((VOCAB,), bool, sharding=whole)
    request = Request(lying(sampling(ROWS), rows), lying(keys, whole), ends, {})
    steps = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    decoder = Decoder(CONFIG, mesh, dtype=jnp.bfloat16)
    return compiled(decoder.going.lower(weights, *taken, request, steps)), taken


def test_a_token_exchanges_what_the_mathematics_asks_for(loop):
    """One sum of the rows of the table, two in each block, and small ones: no scores, no cache."""
    found = emitted.collectives(emitted.program(loop[0]))
    assert {one.kind for one in found} == {"all-reduce"}
    shapes = [array.shape for one in found for array in one.arrays]
    assert shapes.count((ROWS // 2, 1, DIM)) == 1 + 2 * LAYERS
    others = [shape for shape in shapes if shape != (ROWS // 2, 1, DIM)]
    assert max(map(math.prod, others)) <= ROWS // 2 * (SEQ + ROOM)


def test_the_cache_is_written_where_it_was(loop):
    program, taken = loop
    memory = emitted.memory(program)
    assert memory.aliased >= device_bytes((taken.cache.keys, taken.cache.values))
    assert memory.outputs - memory.aliased < 2**15
