import csv
from pathlib import Path

import pytest

from experiments.finetune.config import Config
from experiments.finetune.record import Record
from experiments.finetune.setting import prepare
from ilo_jax.training.loop import Logged


@pytest.fixture(scope="module")
def config(decoder, paragraphs) -> Config:
    return Config(model=str(decoder), text=str(paragraphs), rows=8, row_length=128, warmup=4)


def log(record: Record, *steps: int) -> None:
    for step in steps:
        record.log(Logged(step, 0.5, 7, 1.5, 0.25))


def steps_in(file: Path) -> list[int]:
    with file.open() as stream:
        return [int(row["step"]) for row in csv.DictReader(stream)]


def test_a_step_is_a_row_with_its_learning_rate(config, tmp_path):
    record = Record(config, prepare(config), tmp_path, None)
    record.begin(0)
    log(record, 1, 2)
    last = (tmp_path / "log.csv").read_text().splitlines()[-1].split(",")
    assert [float(cell) for cell in last] == pytest.approx([2, 0.5, 7, 1.5, 1.25e-05, 0.25])


def test_a_run_that_goes_on_drops_what_comes_again(config, tmp_path, capsys):
    setting = prepare(config)
    for begun, end, expected in ((0, 5, [1, 2, 3, 4]), (2, 4, [1, 2, 3]), (0, 3, [1, 2])):
        record = Record(config, setting, tmp_path, None)
        record.begin(begun)
        log(record, *range(begun + 1, end))
        assert steps_in(tmp_path / "log.csv") == expected
    assert capsys.readouterr().out == "continuing after step 2\n"
