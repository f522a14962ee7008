import dataclasses
from pathlib import Path

import pytest

from configs.finetune import own
from experiments.finetune.config import Config, check


@pytest.fixture(scope="module")
def config() -> Config:
    return Config(model="folder", text="file.txt", rows=16, rows_at_once=8, row_length=128)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0, "warmup": 0}, "steps must be at least 1, got 0"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"rows_at_once": -1}, "rows_at_once must be at least 0, got -1"),
        ({"rows_at_once": 3}, "rows_at_once must divide rows, 16, or be 0; got 3"),
        ({"row_length": 1}, "row_length must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"evaluate": -1, "save": -1}, "evaluate must be at least 0, got -1; save must be at"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"clip": -1.0}, "clip must be at least 0, got -1.0"),
        ({"text": ""}, "text must be a file or folder to learn from, got none"),
        ({"frozen_states": "disc"}, "frozen_states must be empty, memory or disk, got 'disc'"),
        (
            {"frozen_folder": "kept", "frozen_states": "memory"},
            "frozen_folder must be empty unless frozen_states=disk, got 'kept'",
        ),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16, got 'float16'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"warmup": 200}, "warmup must be in [0, 199] for 200 steps, got 200"),
    ],
)
def test_values_that_no_run_could_use_are_named(config, fields, message):
    with pytest.raises(ValueError, match=r"must be|must divide") as error:
        check(dataclasses.replace(config, **fields))
    assert message in str(error.value)


def test_weights_are_float32_and_nothing_else_can_be_asked_for(config):
    assert not hasattr(config, "param_dtype")


def test_everything_wrong_is_named_at_once(config):
    with pytest.raises(ValueError, match=r"steps .*rows .*text "):
        check(dataclasses.replace(config, steps=0, rows=0, text=""))


def test_without_a_configuration_nothing_of_a_corpus_is_set():
    """A split and languages that a corpus of one's own has not would be asked for."""
    assert own.get_config() == Config()
    assert (Config.split, Config.languages, Config.sentences) == ("", "", 0)
    main = Path(__file__).parents[3] / "experiments/finetune/__main__.py"
    assert 'config="configs/finetune/own.py"' in main.read_text()
