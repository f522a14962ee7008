import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.pretrain.config import Config
from experiments.pretrain.record import Record
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.hub.presets import Sizes, preset
from ilo_jax.sharding import make_mesh
from ilo_jax.training.loop import Every, Logged
from ilo_jax.training.series import Health

RAW = preset("llama", Sizes(dim=8, layers=1, heads=1, vocab=10, positions=8), {})
CONFIG = Config(steps=6, warmup=2, learning_rate=1.0, keep=3, evaluate=4, save=5)


@pytest.fixture
def record(tmp_path, monkeypatch) -> Record:
    """Return a record whose series only notes which steps it is given."""
    monkeypatch.setattr("experiments.pretrain.record.judge", lambda config, setting: None)
    setting: Any = SimpleNamespace(model=read_config(RAW), mesh=make_mesh())
    kept: list[int] = []

    def keep(model: Any, step: int, health: Any) -> Health:
        kept.append(step)
        return Health(2.5, {})

    series: Any = SimpleNamespace(folder=tmp_path / "series", keep=keep, kept=kept)
    made = Record(CONFIG, setting, series, None)
    monkeypatch.setattr(made, "assemble", lambda weights: weights)
    return made


def steps_in(file: Path) -> list[int]:
    with file.open() as stream:
        return [int(row["step"]) for row in csv.DictReader(stream)]


def test_a_step_is_a_row_with_its_learning_rate(record):
    record.begin(0)
    record.log(Logged(1, 0.5, 7, 1.5, 0.25))
    last = (record.workdir / "log.csv").read_text().splitlines()[-1].split(",")
    assert [float(cell) for cell in last] == pytest.approx([1, 0.5, 7, 1.5, 0.5, 0.25])


def test_a_run_that_goes_on_drops_what_comes_again(record, capsys):
    for begun, end, expected in ((0, 5, [1, 2, 3, 4]), (2, 4, [1, 2, 3]), (0, 3, [1, 2])):
        record.begin(begun)
        for step in range(begun + 1, end):
            record.log(Logged(step, 0.5, 7, 1.5, 0.25))
        assert steps_in(record.workdir / "log.csv") == expected
    assert capsys.readouterr().out == "continuing after step 2\n"


def test_checkpoints_are_kept_at_their_steps_and_no_others(record, capsys):
    assert record.every == Every(4, 5, at=frozenset({0, 1, 2, 3, 4, 6}))
    record.begin(0)
    for step in (0, 4, 5):
        record.evaluate(step, {}, {})
    assert record.series.kept == [0, 4]
    said = [f"step {step}: 2.500 nats for each held-out token\n" for step in (0, 4)]
    assert capsys.readouterr().out == "".join(said)
