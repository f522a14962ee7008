import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import pretrain
from experiments.finetune.config import Config
from experiments.finetune.learner import language_learner
from experiments.finetune.setting import prepare
from experiments.fit.suggestions import abstract_mesh
from experiments.fit.training import step, step_from_scratch
from experiments.fit.workload import Workload
from experiments.launch import Run
from experiments.pretrain import learner as scratch
from experiments.pretrain.setting import any_model
from ilo_jax.models import parameters
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import device_bytes, place_loose
from ilo_jax.training.cost import step_cost
from ilo_jax.training.step import begin
from tests.experiments.fit import holding_of_two
from tests.pairs import run_two


@pytest.fixture(scope="module")
def config(learning) -> Config:
    return dataclasses.replace(learning, freeze="paper:2", frozen_states="memory", model_parallel=2)


@pytest.fixture(scope="module")
def model(decoder):
    return parameters.abstract(open_folder(decoder).config, dtype=jnp.float32)


def described(arrays: Any) -> Any:
    """Shapes, dtypes, and the part of a device, of arrays or what stands in their place."""
    return jax.tree.map(
        lambda array: (array.shape, array.dtype, array.sharding.shard_shape(array.shape)), arrays
    )


@pytest.mark.parametrize("fsdp", [False, True])
def test_a_step_takes_what_the_job_gives_it(config, model, tmp_path, fsdp):
    config = dataclasses.replace(config, fsdp=fsdp)
    setting = prepare(config)
    learner = language_learner(config, setting, tmp_path)
    start = learner.start()
    state = begin(learner.optimizer, start.trainable, setting.mesh)
    batch, key = start.batch(0), place_loose(jax.random.key(config.seed), setting.mesh)
    held = step(config, model, setting.mesh).held
    assert described(held["weights"]) == described((state.weights, start.frozen))
    assert described(held["optimizer state"]) == described((state.step, state.moments))
    assert described(held["kept states"]) == described(batch.kept)
    assert described(held["rows"]) == described((batch.rows, key))
    assert device_bytes(held) == device_bytes((state, start.frozen, batch, key))


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_a_step_from_scratch_takes_what_the_job_gives_it(text, tmp_path, objective):
    kind = {"causal": "llama", "masked": "bert"}[objective]
    shape = {"model": kind, "dim": 16, "layers": 1, "heads": 2, "vocab": 300, "row_length": 32}
    learnt = {"text": str(text), "unit": "line", "held_out": 0.4, "objective": objective}
    config = pretrain.Config(**shape, **learnt, rows=8, fsdp=True)
    setting = pretrain.prepare(config, Run(tmp_path))
    learner = scratch.language_learner(config, setting)
    start = learner.start()
    state = begin(learner.optimizer, start.trainable, setting.mesh)
    work = step_from_scratch(
        config, parameters.abstract(any_model(config), dtype=jnp.float32), setting.mesh
    )
    assert described(work.held["weights"]) == described((state.weights, start.frozen))
    assert described(work.held["optimizer state"]) == described((state.step, state.moments))
    assert described(work.held["rows"][0]) == described(start.batch(0).rows)
    shapes = {path: weight.shape for path, weight in state.weights.items()}
    frozen = dict.fromkeys(shapes, False)
    cost = step_cost(setting.model, shapes, frozen, rows=8, row_length=32)
    assert work.operations == cost.total / 8


def test_nothing_is_kept_that_nobody_asks_for(config, model):
    work = step(dataclasses.replace(config, frozen_states=""), model, abstract_mesh(8, model=2))
    assert work.held["kept states"] is None


def test_operations_are_those_of_a_step_on_each_device(config, model):
    mesh = abstract_mesh(8, model=2)
    work = step(config, model, mesh)
    shapes = {path: like.shape for path, like in parameters.shapes(model).items()}
    frozen = {path: not path.startswith("layers/2/") for path in shapes}
    given = {"rows": 16, "row_length": 128, "cached": True, "remat": False}
    assert work.operations == step_cost(model.config, shapes, frozen, **given).total / 8
    assert work.title == "step of training on 16 rows of 128 tokens, 8 at a time"


def test_what_differentiation_keeps_counts_less_where_blocks_are_computed_again(config, model):
    mesh = abstract_mesh(8, model=2)
    whole = dataclasses.replace(config, freeze="none", frozen_states="")
    sizes = [
        step(each, model, mesh).beside
        for each in (whole, dataclasses.replace(whole, remat=True), config)
    ]
    assert sizes[0] > sizes[2]
    # Of 8 / 4 rows of 128 tokens and 3 blocks: 128 wide, and inside 64 of heads and 144 of MLP.
    assert sizes[0] - sizes[1] == 2 * 128 * 3 * (4 * 32 + (64 + 144) // 2 - 32) * 4


def test_it_compiles_for_the_devices_and_writes_over_what_it_consumes(config, model):
    mesh = prepare(config).mesh
    work = step(config, model, mesh)
    made = work.compile()
    assert made.memory.arguments == device_bytes(work.held)
    assert made.memory.aliased >= device_bytes((
        work.held["weights"][0],
        work.held["optimizer state"],
    ))


def test_rows_that_do_not_divide_over_the_mesh_are_refused(config, model):
    with pytest.raises(ValueError, match=r"must be a multiple of 16; got 8"):
        step(config, model, abstract_mesh(16, model=1))


def test_an_encoder_is_refused(config, tiny):
    encoder = parameters.abstract(open_folder(tiny).config, dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"a decoder with a head to be fine-tuned, got an encoder"):
        step(config, encoder, abstract_mesh(8, model=1))


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["none", "paper:8"])
def test_two_processes_hold_byte_for_byte_what_is_counted(smollm2, paragraphs, tmp_path, freeze):
    config = Config(
        model=str(smollm2),
        text=str(paragraphs),
        rows=4,
        row_length=64,
        freeze=freeze,
        model_parallel=2,
        fsdp=True,
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(dataclasses.asdict(config)))
    ended = run_two(Path(holding_of_two.__file__), *[[str(file), str(tmp_path)]] * 2)
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    smol = parameters.abstract(open_folder(smollm2).config, dtype=jnp.float32)
    work: Workload = step(config, smol, abstract_mesh(8, model=2))
    counted = {name: device_bytes(work.held[name]) for name in ("weights", "optimizer state")}
    assert counted["optimizer state"] > 2**20
    for process in ended:
        assert json.loads(process.stdout.splitlines()[-1]) == [counted] * 4
