"""The list for a GPU runs to its end, whatever becomes of one of it; and then only what is left."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import tables
from experiments.bench import gpu
from experiments.bench.gpu import BENCHMARKS, answered, devices, run_all
from tests.pairs import ended, start

ROOT = Path(__file__).parents[3]
ROWS: dict[str, dict[str, Any]] = {
    "kernel": {"searcher": "fast", "seconds": 0.04, "of_floor": 0.6, "gflops": 395_600},
    "extraction": {
        "searcher": "ours",
        "tokens_per_s": 30_000,
        "gflops": 494_500,
        "compile_seconds": 41.5,
    },
    "step": {"variant": "8 frozen", "seconds": 0.2, "ratio": 0.5, "floor": 0.45},
    "memory-extraction": {"what": "extraction", "compiler_mib": 500.0, "device_mib": 510.0},
    "memory-training": {"what": "training", "compiler_mib": 900.0, "device_mib": 910.0},
}
COMMANDS = {b.name: b.command("MY", Path("w"), tiny=True) for b in BENCHMARKS}


class Machine:
    """Runs nothing: leaves the tables that benchmarks would, and fails where it is told to."""

    def __init__(self, workdir: Path):
        self.workdir, self.fails, self.sleeps, self.ran = workdir, set(), set(), []

    def run(self, command, *, stdout, stderr, timeout):
        name = next(name for name, each in COMMANDS.items() if each == command)
        self.ran.append(name)
        assert not (self.workdir / name).exists()
        if name in self.sleeps:
            raise subprocess.TimeoutExpired(command, timeout)
        if name in self.fails:
            stderr.write("a trace\nerror: no memory\n")
            return subprocess.CompletedProcess(command, 1)
        (self.workdir / name).mkdir()
        row = ROWS[name] | {"device": "NVIDIA H100 80GB HBM3"}
        tables.write(self.workdir / name / "times.csv", [*row], [row])
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    there = Machine(tmp_path)
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(**vars(subprocess) | {"run": there.run}))
    monkeypatch.setattr(gpu.platform, "platform", lambda: "a machine")
    return there


def test_what_fails_or_sleeps_takes_nothing_from_the_others_and_is_tried_again(
    machine, tmp_path, capsys
):
    machine.fails, machine.sleeps = {"kernel"}, {"step"}
    results = run_all(COMMANDS, tmp_path, timeout=60)
    assert machine.ran == [*COMMANDS]
    failures = {name: each["failure"] for name, each in results.items() if each["failure"]}
    assert failures == {
        "kernel": "status 1: error: no memory",
        "step": "longer than 60 s: it said nothing",
    }
    out = capsys.readouterr().out
    assert all(failure in out for failure in failures.values())
    machine.fails, machine.sleeps, machine.ran = set(), set(), []
    again = run_all(COMMANDS, tmp_path, timeout=60)
    assert machine.ran == ["kernel", "step"]
    assert again["extraction"] == results["extraction"]
    assert json.loads((tmp_path / "results.json").read_text()) == again
    assert not any(each["failure"] for each in again.values())


def test_what_was_asked_otherwise_is_run_again(machine, tmp_path):
    run_all(COMMANDS, tmp_path, timeout=60)
    (tmp_path / "results.json").write_text(
        (tmp_path / "results.json").read_text().replace("--blocks=1", "--blocks=2")
    )
    machine.ran = []
    run_all(COMMANDS, tmp_path, timeout=60)
    assert machine.ran == ["step"]


def test_what_came_out_stands_beside_what_was_asked_for(machine, tmp_path):
    results = run_all(COMMANDS, tmp_path, timeout=60)
    assert devices(results.values()) == ["NVIDIA H100 80GB HBM3"]
    assert [*answered(results)] == [
        ("kernel", "fast: 33 hidden states", "1.32 s", "1.5 s"),
        ("kernel", "fast: of the bare products", "0.6", "0.5"),
        ("kernel", "fast: of the bfloat16 peak", "40%", ""),
        ("extraction", "ours: tokens/s", "30000", ""),
        ("extraction", "ours: of the bfloat16 peak", "50%", "50%"),
        ("extraction", "ours: compiled before the first batch", "41.5 s", "60 s"),
        ("step", "8 frozen: a step", "0.2 s", ""),
        ("step", "8 frozen: of the full step's time", "0.5", "0.45"),
        ("memory-extraction", "extraction: memory", "510 MiB", "500 MiB"),
        ("memory-training", "training: memory", "910 MiB", "900 MiB"),
    ]
    results["kernel"]["rows"][0]["device"] = "cpu"  # whose peak nobody publishes
    assert not any("peak" in what for name, what, *_ in answered(results) if name == "kernel")


@pytest.mark.parametrize("each", BENCHMARKS, ids=lambda each: each.name)
def test_what_is_asked_are_flags_of_the_benchmark(each):
    source = (ROOT / "experiments/bench" / f"{each.module}.py").read_text()
    defined = set(re.findall(r'DEFINE_\w+\("(\w+)"', source))
    words = f"{each.full} {each.tiny} --workdir".split()
    names = {word.removeprefix("--").partition("=")[0] for word in words}
    assert {name if name in defined else name.removeprefix("no") for name in names} <= defined


@pytest.mark.slow
def test_the_list_runs_on_any_machine(decoder, tmp_path):
    flags = ["--tiny", f"--model={decoder}", f"--workdir={tmp_path}"]
    (process,) = ended([start(["-m", "experiments.bench.gpu", *flags])])
    assert process.returncode == 0, process.stdout + process.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [*results] == [*COMMANDS]
    assert all(each["rows"] for each in results.values())
