"""Everyone who is timed finds the same neighbours."""

import importlib.util

import jax
import numpy as np
import pytest

from experiments.bench.ilo import recall, synthetic, truth
from experiments.bench.rivals.searchers import FLOORS, SEARCHERS, absent, without_own
from ilo_jax.metrics import ilo

STATES = synthetic(5, 41, 24)
EVERY = np.arange(5 * 41)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith(("exact-", "fast-")) else ())
        for name in SEARCHERS
        if name not in FLOORS
    ],
)
def test_neighbours_are_the_true_ones(name):
    if absent([name]):
        pytest.skip(f"{name} is not installed")
    found = SEARCHERS[name](STATES, 5)()
    assert recall(np.asarray(found.index), truth(STATES, EVERY, 5)) == 1
    if found.certain is not None:
        assert found.certain.all()
        np.testing.assert_array_equal(found.ilo, ilo(jax.numpy.asarray(STATES)).ilo)


@pytest.mark.parametrize("name", FLOORS)
def test_floors_multiply_every_point(name):
    points = STATES.reshape(-1, 24)
    last = SEARCHERS[name](np.tile(points, (3, 1))[None], 5)().index
    np.testing.assert_allclose(last[-205:], np.tile(points @ points.T, 3), rtol=0.03, atol=3)


def test_own_point_is_taken_out_wherever_it_is():
    index = np.array([[0, 1, 2], [3, 2, 1], [0, 1, 3]])
    np.testing.assert_array_equal(without_own(index), [[1, 2], [3, 2], [0, 1]])


def test_absent_packages_are_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert absent(["exact", "paper", "FAISS"]) == ["paper", "FAISS"]
