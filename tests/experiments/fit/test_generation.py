from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.fit.generation import abstract_request, abstract_state, sizes, speech
from experiments.fit.suggestions import abstract_mesh, candidates
from experiments.fit.workload import Asked
from experiments.generate import Config
from ilo_jax.generation.decoding import Decoder
from ilo_jax.generation.requests import Prompts
from ilo_jax.models import parameters
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import device_bytes, make_mesh

ASKED = Asked(row_length=20, segments=4)
CONFIG = Config(rows=8, samples=2, temperature=1.0, max_tokens=20, stops='["ab"]')


@pytest.fixture(scope="module")
def model(decoder: Path) -> Transformer:
    return parameters.abstract(open_folder(decoder).config, dtype=jnp.float32)


def test_prompts_and_what_is_said_fill_their_buckets_and_prompts_divide_over_the_devices():
    assert sizes(CONFIG, ASKED, places=4) == (4, 32, 8, 32)
    assert sizes(CONFIG, ASKED, places=8) == (8, 32, 16, 32)


def test_a_state_is_that_in_which_a_decoder_starts(model):
    mesh = make_mesh(data=2, model=2)
    size = sizes(CONFIG, ASKED, places=2)
    start = Decoder(model.config, mesh, dtype=jnp.float32).starting(size.room, CONFIG.samples)
    rows = Prompts(*(jax.ShapeDtypeStruct(s, jnp.int32) for s in ((4, 32), (4,))))
    request = abstract_request(CONFIG, model.config, mesh, rows=size.prompts)
    weights = parameters.abstract_weights(model, mesh, dtype=jnp.float32, fsdp=False)
    real = jax.eval_shape(start.function, weights, rows, request)
    ours = abstract_state(model.config, mesh, size, dtype=jnp.float32)
    assert jax.tree.structure(ours) == jax.tree.structure(real)
    shapes = [[(one.shape, one.dtype) for one in jax.tree.leaves(s)] for s in (ours, real)]
    assert shapes[0] == shapes[1]
    keys = ours.cache.keys[0]
    assert keys.sharding.shard_shape(keys.shape) == (4, 1, 64, 8)


def test_what_is_held_is_counted(model):
    reading, saying = speech(CONFIG, model, abstract_mesh(4, model=2), ASKED)
    # Keys and values of three blocks, four rows of a device, one head, 64 slots of 8 float32.
    cache = 2 * 3 * 4 * 1 * 64 * 8 * 4
    places = 2 * 4 * 64 * 4 + 4
    assert device_bytes(saying.held["cache"]) == cache + places
    assert reading.counted > device_bytes(reading.held)
    assert saying.operations < reading.operations


def test_both_programs_are_compiled_for_a_slice(tpu, model):
    devices = tpu("v5e:2x2").devices
    for work in speech(CONFIG, model, make_mesh(model=2, devices=devices), ASKED):
        made = work.compile()
        assert made.memory.arguments >= device_bytes(work.held)
        assert made.memory.total < 2**24


def test_an_encoder_is_refused(tiny):
    model = parameters.abstract(open_folder(tiny).config, dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"^generation needs a decoder with a head, got an enc"):
        speech(CONFIG, model, abstract_mesh(4, model=1), ASKED)


def test_fewer_rows_are_suggested_after_all_of_them():
    found = candidates(CONFIG, 4, ASKED, ways=[1, 2])
    of_its_dtype = [one.rows for one in found if one.dtype == CONFIG.dtype]
    assert of_its_dtype == sorted(of_its_dtype, reverse=True)
    assert {one.rows for one in found} == {8, 4, 2, 1}
    assert (found[0].rows, found[0].model_parallel, found[0].fsdp) == (8, 1, False)
