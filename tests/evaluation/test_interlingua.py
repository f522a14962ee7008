import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.evaluation import interlingua
from ilo_jax.evaluation.interlingua import scored
from ilo_jax.metrics import IloSettings, referenced

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
