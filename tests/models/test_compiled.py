"""What a TPU's compiler makes of models: what devices exchange, as the mathematics asks for it.

The devices are not there: nothing runs, and nothing is timed.
"""

from collections import Counter
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from ilo_jax import emitted
from ilo_jax.activations.forward import tapping
from ilo_jax.activations.taps import read
from ilo_jax.compiling.compiler import Call
from ilo_jax.compiling.program import Program
from ilo_jax.corpora.packing import abstract_rows
from ilo_jax.models import parameters
from ilo_jax.models.hub.families import read_config
from ilo_jax.sharding import along_data, device_bytes, make_mesh, replicated
from ilo_jax.training import freezing, optimizers
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.step import abstract, make_step

DIM, MLP, HEADS, VOCAB, LAYERS = 128, 256, 4, 2048, 4
ROWS, SEQ = 8, 128
SHAPE = {"vocab_size": VOCAB, "hidden_size": DIM, "intermediate_size": MLP}
SHAPE |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": SEQ}
DECODER = SHAPE | {"model_type": "llama", "num_key_value_heads": HEADS}
ENCODER = SHAPE | {"model_type": "bert", "type_vocab_size": 2}
KERNELS = Counter({(DIM, DIM): 4, (DIM, MLP): 2, (MLP, DIM): 1})
"""Of a block of the decoder, by shape."""

Exchanged = Counter[tuple[str, tuple[int, ...]]]
"""How often arrays of a shape are exchanged in a collective of a kind, in one call."""


def exchanged(call: Call) -> Exchanged:
    found: Exchanged = Counter()
    for one in emitted.collectives(emitted.program(call.compiled)):
        assert one.times == 1
        found.update((one.kind, array.shape) for array in one.arrays)
    return found


def of_parts(program: Program, name: str) -> list[tuple[Exchanged, int]]:
    """What each distinct part of a name exchanges, and how often it is called."""
    return [(exchanged(c), times) for c, times in program.distinct if c.name == name]


def rest(program: Program, *names: str) -> Exchanged:
    """What all other parts exchange."""
    others = [exchanged(call) for call, _ in program.distinct if call.name not in names]
    return sum(others, Counter())


def sums(*shape: int, times: int) -> Exchanged:
    return Counter({("all-reduce", shape): times})


# Extraction


@pytest.fixture(scope="module")
def extraction(tpu):
    """Return what makes the program that pools all states in bfloat16, on a slice of four chips."""

    @cache
    def make(kind: str, data: int, model: int, fsdp: bool) -> Program:
        config = read_config(DECODER if kind == "decoder" else ENCODER)
        mesh = make_mesh(data=data, model=model, devices=tpu("v5e:2x2").devices)
        like = parameters.abstract(config, dtype=jnp.bfloat16, mesh=mesh)
        weights = parameters.abstract_weights(like, mesh, dtype=jnp.bfloat16, fsdp=fsdp)
        rows = abstract_rows(ROWS, SEQ, sharding=along_data(mesh))
        taps = read("residual:mean", config)
        forward = tapping(config, mesh, taps, segments=8, dtype=jnp.bfloat16)
        return forward.compiled(weights, rows)

    return make


KINDS = pytest.mark.parametrize("kind", ["decoder", "encoder"])


@KINDS
@pytest.mark.parametrize(("data", "model"), [(1, 4), (2, 2), (4, 1)])
def test_a_forward_adds_up_what_is_split_and_exchanges_nothing_else(extraction, kind, data, model):
    """One sum of the rows of the table, and two in each block: of heads, and of neurons."""
    program = extraction(kind, data, model, False)
    ((of_block, times),) = of_parts(program, "part_run_block")
    hidden = ROWS // data, SEQ, DIM
    split = model > 1
    assert times == LAYERS
    assert of_block == sums(*hidden, times=2) if split else not of_block
    assert rest(program, "part_run_block") == (sums(*hidden, times=1) if split else Counter())


def test_weights_split_over_the_data_are_gathered_once_where_they_are_used(extraction):
    program = extraction("decoder", 2, 2, True)
    ((of_block, times),) = of_parts(program, "part_run_block")
    gathered = {kind: n for kind, n in of_block.items() if kind[0] == "all-gather"}
    assert times == LAYERS
    assert sum(gathered.values()) == KERNELS.total()
    assert sum(n * a * b for (_, (a, b)), n in gathered.items()) * 4 == sum(
        n * a * b for (a, b), n in KERNELS.items()
    )
    assert of_block - Counter(gathered) == sums(ROWS // 2, SEQ, DIM, times=2)
    # Rows of the table are exchanged, never the table.
    outside = rest(program, "part_run_block")
    assert not any(shape == (VOCAB // 2, DIM // 2) for _, shape in outside)


# A step of training


@pytest.fixture(scope="module")
def training(tpu):
    """Return what makes the program of a step in bfloat16, two by two."""

    @cache
    def make(freeze: str, fsdp: bool) -> tuple[Program, Any]:
        config = read_config(DECODER)
        mesh = make_mesh(data=2, model=2, devices=tpu("v5e:2x2").devices)
        like = parameters.abstract(config, dtype=jnp.float32, mesh=mesh)
        weights = parameters.abstract_weights(like, mesh, dtype=jnp.float32, fsdp=fsdp)
        mask = freezing.frozen_mask(weights, freezing.read_rules(freeze, config))
        trainable, frozen = freezing.split(weights, mask)
        optimizer = optimizers.adamw(optax.constant_schedule(1e-3), weight_decay=0.1, clip=1.0)
        state = abstract(optimizer, trainable, mesh)
        loss = next_token(config, mesh, dtype=jnp.bfloat16, fsdp=fsdp)
        rows = abstract_rows(1, ROWS, SEQ, sharding=along_data(mesh, axis=1))
        key = jax.eval_shape(lambda: jax.random.key(0)).update(sharding=replicated(mesh))
        step = make_step(loss, optimizer, like=state, mesh=mesh)
        return step.compiled(state, frozen, Batch(rows), key), state

    return make


HIDDEN = ROWS // 2, SEQ, DIM
"""A hidden state on each chip."""


def of_weights(found: Exchanged) -> Counter[tuple[int, ...]]:
    """The shapes of gradients that are added up: all but hidden states."""
    return Counter({
        shape: n for (kind, shape), n in found.items() if kind == "all-reduce" and len(shape) < 3
    })


def halved(kernels: Counter[tuple[int, ...]]) -> Counter[tuple[int, ...]]:
    """Kernels of a block as each chip has them: heads or neurons split over "model"."""
    split: dict[tuple[int, ...], list[tuple[int, int]]] = {
        (DIM, DIM): [(DIM, DIM // 2)] * 3 + [(DIM // 2, DIM)]
    }
    split |= {(DIM, MLP): [(DIM, MLP // 2)] * 2, (MLP, DIM): [(MLP // 2, DIM)]}
    return Counter(shape for kernel in kernels for shape in split[kernel])


def test_a_step_adds_up_each_gradient_once_and_two_states_each_way(training):
    program, _ = training("none", False)
    forwards, backwards = of_parts(program, "part_run_block")
    assert (forwards[1], backwards[1]) == (LAYERS, LAYERS)
    assert forwards[0] == sums(*HIDDEN, times=2)
    assert backwards[0]["all-reduce", HIDDEN] == 2
    gradients = halved(KERNELS) + Counter({(DIM,): 2})
    assert of_weights(backwards[0]) == gradients
    assert sum(backwards[0].values()) == 2 + gradients.total()


def test_of_frozen_blocks_no_gradient_is_added_up(training):
    program, state = training("paper:2", False)
    found = of_parts(program, "part_run_block")
    assert sum(times for _, times in found) == LAYERS + (LAYERS - 2)
    backwards = [(each, times) for each, times in found if of_weights(each)]
    assert sum(times for _, times in backwards) == LAYERS - 2
    for each, _ in backwards:
        assert of_weights(each) == halved(KERNELS) + Counter({(DIM,): 2})
    updated = [times for call, times in program.distinct if call.name == "part_update_block"]
    assert sum(updated) == LAYERS - 2
    assert not [path for path in state.weights if not path.startswith(("layers/2", "layers/3"))]


@pytest.mark.parametrize("freeze", ["none", "paper:2"])
def test_a_step_writes_the_state_where_it_was(training, freeze):
    """All that trains, with its moments, and no second copy of it."""
    program, state = training(freeze, False)
    held = device_bytes(state)
    memory = program.memory
    assert held <= memory.outputs <= held + 64
    assert memory.aliased == held
