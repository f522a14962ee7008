"""What a compiler says of memory stands beside what the device then says."""

import jax
import jax.numpy as jnp
import pytest

from experiments.bench import timing
from experiments.bench.compiling import Size, extraction
from experiments.bench.memory import MIB, SHOWN, measured, zeros
from experiments.bench.timing import Seconds
from ilo_jax.models.hub.families import read_config
from ilo_jax.sharding import make_mesh, replicated

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def test_what_stands_for_an_array_becomes_one_that_lies_as_it_says():
    lies = replicated(make_mesh())
    array = zeros(jax.ShapeDtypeStruct((2, 3), jnp.int32, sharding=lies))
    assert (array.shape, array.dtype, array.sharding) == ((2, 3), jnp.int32, lies)
    key = jax.eval_shape(lambda: jax.random.key(0)).update(sharding=lies)
    assert zeros(key).dtype == key.dtype


def test_both_say_how_much_memory_a_program_takes(monkeypatch):
    ran = []

    def peak_beyond(call):
        ran.append(call())
        return Seconds(1.5, 1.0), 3 * MIB

    monkeypatch.setattr(timing, "peak_beyond", peak_beyond)
    work = extraction(read_config(LLAMA), make_mesh(data=1), Size(2, 32, "float32"))
    row = measured(work)
    assert {"what", *row} == {*SHOWN}
    memory = work.function.compiled(*work.given).memory
    said = memory.arguments + memory.outputs - memory.aliased + memory.temporaries
    assert row["compiler_mib"] == round(said / MIB, 1) > 0
    assert row["ratio"] == pytest.approx(3 * MIB / said, rel=1e-3)
    assert (row["device_mib"], row["seconds"]) == (3.0, 1.5)
    states = ran[0]["residual_mean"]
    assert states.shape[0] == LLAMA["num_hidden_layers"] + 1
