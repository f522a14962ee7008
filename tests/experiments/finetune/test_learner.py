import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.finetune.config import Config
from experiments.finetune.learner import language_learner, learning_rate
from experiments.finetune.setting import prepare
from ilo_jax.training.run import Start


@pytest.fixture(scope="module")
def config(learning) -> Config:
    return dataclasses.replace(learning, freeze="paper:2", frozen_states="disk", steps=9, warmup=2)


def started(config: Config, workdir: Path) -> Start:
    return language_learner(config, prepare(config), workdir).start()


def test_a_start_has_all_weights_and_each_step_its_rows_and_kept_states(config, tmp_path):
    trainable, frozen, batch = started(config, tmp_path)
    assert {path.split("/")[1] for path in trainable} == {"2"}
    assert {weight.dtype.name for weight in jax.tree.leaves((trainable, frozen))} == {"float32"}
    one = batch(3)
    assert one.rows.tokens.shape == (2, 8, 128)
    assert one.kept.shape == (2, 8, 128, 32)
    np.testing.assert_array_equal(one.rows.tokens, batch(3).rows.tokens)
    assert not np.array_equal(one.rows.tokens, batch(4).rows.tokens)


def test_kept_states_are_in_a_file_of_their_own_for_whatever_changes_them(config, tmp_path):
    for other in ({}, {"freeze": "paper:1"}, {"row_length": 64}, {"rows": 8}):
        started(dataclasses.replace(config, **other), tmp_path)
    for same in ({"steps": 7}, {"learning_rate": 1.0}, {"seed": 3}):
        started(dataclasses.replace(config, **same), tmp_path)
    assert len(list((tmp_path / "frozen").glob("*-0-of-1.bin"))) == 4
    shared = dataclasses.replace(config, frozen_folder=str(tmp_path / "shared"))
    started(shared, tmp_path)
    assert len(list((tmp_path / "shared").iterdir())) == 1


def test_the_learning_rate_is_what_is_asked_for(config):
    rates = [float(np.asarray(learning_rate(config)(step))) for step in range(3)]
    assert rates == pytest.approx([0, config.learning_rate / 2, config.learning_rate])
