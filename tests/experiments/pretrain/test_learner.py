import jax
import numpy as np
import pytest

from experiments.pretrain.config import Config
from experiments.pretrain.learner import first_weights, learning_rate
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.hub.presets import Sizes, preset
from ilo_jax.sharding import make_mesh

MODEL = read_config(preset("llama", Sizes(dim=16, layers=1, heads=2, vocab=64, positions=8), {}))


def test_no_step_has_a_learning_rate_of_nothing():
    rate = learning_rate(Config(steps=9, warmup=2, learning_rate=1.0))
    rates = [float(np.asarray(rate(step))) for step in range(9)]
    assert rates[:2] == pytest.approx([0.5, 1.0])
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_the_first_weights_are_the_same_however_they_lie():
    one = first_weights(MODEL, make_mesh(data=1), fsdp=False, seed=0)
    split = first_weights(MODEL, make_mesh(data=4, model=2), fsdp=True, seed=0)
    assert not split["layers/0/mlp/up/kernel"].is_fully_replicated
    for path, weight in one.items():
        np.testing.assert_array_equal(weight, split[path])
    assert {weight.dtype.name for weight in jax.tree.leaves(one)} == {"float32"}
