import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.extract import Config
from experiments.fit.extraction import forward
from experiments.fit.suggestions import abstract_mesh
from experiments.fit.workload import Asked
from ilo_jax.activations.taps import read
from ilo_jax.models import parameters
from ilo_jax.models.flops import forward_flops
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import device_bytes, make_mesh

ASKED = Asked(row_length=64, segments=4)


@pytest.fixture(scope="module")
def folder(tiny):
    return open_folder(tiny)


@pytest.fixture(scope="module")
def model(folder):
    return parameters.abstract(folder.config, dtype=jnp.float32)


@pytest.fixture(scope="module")
def config(tiny) -> Config:
    return Config(model=str(tiny), batch_tokens=128, model_parallel=2)


def extraction(config, model, mesh=None, taps="residual:mean"):
    mesh = mesh or abstract_mesh(8, model=config.model_parallel)
    return forward(config, model, mesh, ASKED, read(taps, model.config))


@pytest.mark.parametrize("fsdp", [False, True])
def test_weights_are_those_that_the_job_reads(config, folder, model, fsdp):
    mesh = make_mesh(model=2)
    held = extraction(dataclasses.replace(config, fsdp=fsdp), model, mesh).held["weights"]
    loaded = parameters.weights(loading.load(folder, mesh=mesh, fsdp=fsdp, dtype=jnp.float32))
    assert held == {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for path, array in loaded.items()
    }


def test_weights_are_of_the_dtype_of_the_computation_or_of_their_own(config, model):
    half = dataclasses.replace(config, dtype="bfloat16")
    sizes = [
        device_bytes(extraction(each, model).held["weights"])
        for each in (config, half, dataclasses.replace(half, param_dtype="float32"))
    ]
    assert sizes[0] == sizes[2] == 2 * sizes[1]


def test_rows_are_as_many_as_the_job_computes_at_a_time(config, model):
    work = extraction(config, model)
    assert work.held["rows"].tokens.shape == (2 * 4, 64)
    assert work.title == "extraction of 8 rows of 64 tokens, up to 4 sentences each"
    one = extraction(dataclasses.replace(config, batch_tokens=1), model)
    assert one.held["rows"].tokens.shape == (4, 64)


def test_operations_are_the_models_on_each_device(config, model):
    work = extraction(config, model)
    assert work.operations == forward_flops(model.config, np.full(8 * 4, 16)) / 8


def test_it_compiles_for_the_devices(config, model):
    work = extraction(config, model, make_mesh(model=2), taps="residual:mean,neurons:max")
    made = work.compile()
    assert made.memory.arguments == device_bytes(work.held)
    # 3 states of 24 and 2 layers of 40 neurons: 2 rows of 4 sentences on each device.
    assert made.memory.outputs == (3 * 24 + 2 * 40) * 2 * 4 * 4
    assert [often for name, _, often in made.parts if name == "part_run_block"] == [2]
    assert work.results == 3


def test_what_is_taken_of_tokens_counts_as_rows_long_as_they_are(config, model):
    pooled, tokens = (
        extraction(config, model, taps=t) for t in ("residual:max@1", "residual:tokens@1")
    )
    assert tokens.beside - pooled.beside == 4 * 4 * 2 * 24 * (64 - 4)
