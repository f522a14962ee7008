import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax import emitted
from ilo_jax.evaluation import interlingua
from ilo_jax.evaluation.interlingua import lowered, scored
from ilo_jax.metrics import IloSettings, ReferencedScores, referenced
from ilo_jax.sharding import make_mesh
from ilo_jax.topologies import compiled

SETTINGS = IloSettings(k=3, min_languages=2, permutations=2, draws=1)
STATES = np.random.default_rng(0).standard_normal((2, 4, 9, 5)).astype(np.float32)


def test_states_that_come_one_by_one_are_scored_over_all_devices():
    taken = []
    found = scored((taken.append(state) or state for state in STATES), SETTINGS)
    assert len(taken) == 2
    wanted = jax.lax.map(lambda state: referenced(state, settings=SETTINGS), jnp.asarray(STATES))
    for name, value in found._asdict().items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_allclose(value, getattr(wanted, name), rtol=1e-6, err_msg=name)


def test_too_little_memory_names_what_to_change(monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(interlingua, "referenced", full)
    message = "^too little device memory for 4 x 9 states, 5 wide; try fewer sentences or languages"
    with pytest.raises(MemoryError, match=message):
        scored(STATES, SETTINGS)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"^k must be in \[1, 35\] for 36 points, got 36$"):
        scored(STATES, IloSettings(k=36))


def test_what_is_lowered_is_what_scores(caplog):
    state = jax.ShapeDtypeStruct(STATES[0].shape, STATES.dtype)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        program = lowered(state, SETTINGS, mesh=make_mesh())
    assert any(message.startswith("Finished tracing") for message in caplog.messages)
    assert not [message for message in caplog.messages if "XLA compilation" in message]
    found, wanted = program.compile()(STATES[0]), scored(STATES[:1], SETTINGS)
    assert isinstance(found, ReferencedScores)
    for name, value in found._asdict().items():
        np.testing.assert_array_equal(value, getattr(wanted, name)[0], err_msg=name)


@pytest.fixture(scope="module")
def for_a_slice(tpu) -> jax.stages.Lowered:
    """For 4 chips, of 256 points."""
    mesh = make_mesh(model=2, devices=tpu("v5e:2x2").devices)
    settings = IloSettings(k=3, min_languages=2, permutations=3, draws=2)
    return lowered(jax.ShapeDtypeStruct((4, 64, 128), jnp.float32), settings, mesh=mesh)


def test_a_state_is_lowered_for_devices_that_are_not_there(for_a_slice):
    """With one search, for the score and the draws, which sends points and their biases."""
    assert for_a_slice.as_text().count('"stablehlo.collective_permute"') == 2


@pytest.mark.slow
def test_the_references_are_searched_for_by_all_devices(for_a_slice):
    """By three searches, one for the score and two for the draws, of 3 rounds each."""
    program = compiled(for_a_slice)
    assert emitted.memory(program).arguments == 256 * 128 * 4
    moved = emitted.traffic(emitted.collectives(emitted.program(program)))["collective-permute"]
    assert moved.uncounted == 0
    assert moved.operations == 2 * 3 * 3
    assert moved.bytes == 3 * 3 * 64 * (128 + 1) * 4


def test_impossible_settings_are_not_lowered():
    state = jax.ShapeDtypeStruct((4, 9, 5), jnp.float32)
    with pytest.raises(ValueError, match=r"^k must be in \[1, 35\] for 36 points, got 36$"):
        lowered(state, IloSettings(k=36), mesh=make_mesh())
