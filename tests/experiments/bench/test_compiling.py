"""Both ways compile the same, and the table says which is which."""

from functools import partial

import pytest

from experiments.bench.compiling import SHOWN, WORK, Size, compared
from ilo_jax.models.hub.families import read_config
from ilo_jax.sharding import make_mesh

LAYERS = 3
LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("what", ["extraction", pytest.param("training", marks=pytest.mark.slow)])
def test_a_model_is_compiled_whole_and_by_parts(what):
    make = partial(WORK[what], read_config(LLAMA), make_mesh(data=1), Size(2, 32, "float32"))
    whole, parts = compared(what, make, ways=["whole", "parts"], rounds=1)
    assert [*whole] == [*SHOWN]
    assert (whole["way"], parts["way"]) == ("whole", "parts")
    assert whole["parts"] == whole["ratio"] == 1
    assert 1 < parts["parts"] < {"extraction": 8, "training": 24}[what]
    assert min(whole["seconds"], parts["seconds"], whole["temporaries_mib"]) > 0
