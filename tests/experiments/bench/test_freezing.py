import csv
from pathlib import Path

import pytest

from tests.pairs import ended, start


def run(*flags: str):
    (process,) = ended([start(["-m", "experiments.bench.freezing", *flags])])
    return process


@pytest.mark.slow
def test_every_variant_is_timed_beside_what_it_should_cost(decoder, tmp_path):
    size = ["--row_length=128", "--rows=2", "--rounds=1", "--blocks=1,2"]
    for _ in range(2):
        process = run(f"--model={decoder}", f"--workdir={tmp_path}", *size)
        assert process.returncode == 0, process.stderr
    with Path(tmp_path / "times.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["full", "1 frozen", "1 frozen, kept", "2 frozen", "2 frozen, kept"]
    assert [row["variant"] for row in rows] == names * 2
    floors = [float(row["floor"]) for row in rows[:5]]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] == 1
    assert [float(row["kept_mib"]) > 0 for row in rows[:5]] == [n.endswith("kept") for n in names]
    assert all(float(row["seconds"]) > 0 for row in rows)


@pytest.mark.slow
def test_a_number_of_blocks_that_the_model_has_not_is_refused(decoder, tmp_path):
    process = run(f"--model={decoder}", f"--workdir={tmp_path}", "--blocks=3")
    assert process.returncode == 1
    assert "blocks must be in [0, 2] to be frozen, got 3" in process.stderr
