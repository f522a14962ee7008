"""The comparison of extraction is of the same work, and says so if it is not."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.bench import extract as bench_extract
from experiments.bench.extract import SEARCHERS, difference, differences, measured
from experiments.bench.rivals.extractors import Found
from experiments.bench.rivals.work import prepare
from experiments.bench.timing import Seconds
from experiments.settings import Source
from ilo_jax.models import parameters
from ilo_jax.models.flops import forward_flops
from ilo_jax.models.hub.folder import open_folder

ROOT = Path(__file__).parents[3]


def run(*given: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.bench.extract", *given]
    environment = os.environ | {"XLA_FLAGS": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "times.csv").open(newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.slow
def test_a_comparison_leaves_a_table(tiny, text, tmp_path):
    given = [f"--model={tiny}", f"--corpus={text}", "--languages=eng_Latn,deu_Latn,aaa_Latn"]
    given += ["--sentences=4", "--rounds=1", "--batch_tokens=256", f"--workdir={tmp_path}"]
    done = run(*given)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert [row["searcher"] for row in found] == list(SEARCHERS)
    walls = {row["searcher"]: float(row["seconds"]) for row in found}
    flops = forward_flops(open_folder(tiny).config, np.full(12, 30))  # not all are of 30 characters
    for row in found:
        seconds = walls[row["searcher"]]
        assert row["sentences"] == "12"
        assert (
            0 < float(row["tokens_per_s"]) == pytest.approx(int(row["tokens"]) / seconds, rel=0.1)
        )
        assert float(row["gflops"]) <= 1.2 * flops / seconds / 1e9 + 0.1
        assert float(row["times_paper"]) == pytest.approx(walls["paper"] / seconds, rel=0.1)
        assert float(row["times_torch"]) == pytest.approx(walls["torch"] / seconds, rel=0.1)
        assert float(row["of_products"]) == pytest.approx(walls["products"] / seconds, rel=0.2)
        assert (row["difference"] == "") == (row["searcher"] == "products")
        assert float(row["difference"] or 0) < 1e-4
        assert (row["compile_seconds"] != "") == row["searcher"].startswith("ours")
        assert row["jax"] == jax.__version__
    assert f"; {len(os.sched_getaffinity(0))} torch threads\n" in done.stdout
    assert "seconds by sentences in a batch" in done.stdout
    assert "memory_mib" not in done.stdout
    assert "times_torch" in done.stdout
    # What was stored meanwhile is gone, and rows are added to those of before.
    assert [file.name for file in tmp_path.iterdir()] == ["times.csv"]
    done = run(*given, "--searchers=torch", "--torch_batch=3", "--memory")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path)[:-1] == found
    last = rows(tmp_path)[-1]
    assert (last["searcher"], last["batch"], last["times_paper"]) == ("torch", "3 sentences", "")
    assert float(last["memory_mib"]) >= 0
    assert "memory_mib" in done.stdout
    assert "times_paper" not in done.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--searchers=ours,best"], "--searchers must be of ours, .*; got ['best']"),
        pytest.param(
            ["--only=best"], "--only must be of ours, .*; got ['best']", marks=pytest.mark.slow
        ),
        (["--random=llama8b", "--model=x"], "either --model or --random must be given, got both"),
        pytest.param(["--rounds=0"], "rounds", marks=pytest.mark.slow),
        pytest.param(["more"], "unknown arguments: more", marks=pytest.mark.slow),
        pytest.param(
            ["--model=/none"], "error: model must be a folder or a hub id", marks=pytest.mark.slow
        ),
        (["--languages=xxx_Xxxx"], "error: .*xxx_Xxxx"),
    ],
)
def test_bad_flags_are_refused(given, message, tmp_path):
    done = run(*given, f"--workdir={tmp_path}")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert all(part in said for part in message.split(".*")), said
    assert not list(tmp_path.iterdir())


def test_other_vectors_stop_the_run(tiny, text, tmp_path, monkeypatch):
    work = prepare(
        Source(
            model=str(tiny),
            corpus=str(text),
            sentences=2,
            languages="eng_Latn,deu_Latn",
            batch_tokens=512,
        ),
        random=None,
        dtype="float32",
        torch_batch=4,
        scratch=tmp_path,
    )
    monkeypatch.setattr(bench_extract, "FLAGS", SimpleNamespace(rounds=1, memory=False))
    searchers = ["paper", "torch", "ours-forward"]
    assert len(list(bench_extract.compare(work, searchers))) == 3
    path = "layers/1/mlp/down/bias"
    changed = parameters.weights(work.model)
    parameters.put(work.model, changed | {path: changed[path] * 1.01})
    with pytest.raises(ValueError, match=r"of float32 may differ .*: \{'ours-forward': '\d.*'\}$"):
        list(bench_extract.compare(work, searchers))


def test_differences_are_relative_and_the_largest():
    reference = np.array([[[3.0, 4.0], [0.3, 0.4]]])
    found = np.add(reference, [[[0.0, 0.5], [0.01, 0.0]]])
    assert difference(found, reference) == pytest.approx(0.1)
    assert difference(found * np.nan, reference) == np.inf


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_differences_are_from_the_papers_way(dtype, most):
    def vectors(by: float) -> Found:
        return Found(lambda: np.full((2, 3, 4), 1 + by), 0.0, "")

    floor = Found(None, 0.0, "")
    found = {"ours": vectors(0.9 * most), "products": floor, "paper": vectors(0.0)}
    expected = pytest.approx({"ours": 0.9 * most, "paper": 0.0}, rel=1e-6)
    assert differences(found, dtype) == expected
    with pytest.raises(ValueError, match=r"from those of paper; .*\{'torch': "):
        differences(found | {"torch": vectors(1.1 * most)}, dtype)
    # Without it, from the first.
    assert differences({"ours": vectors(0.0), "torch": vectors(0.0)}, dtype) == {
        "ours": 0.0,
        "torch": 0.0,
    }
    assert differences({"products": floor}, dtype) == {}


def test_times_that_are_given_are_used_without_the_first():
    given = iter([Seconds(100, 100), Seconds(1, 7), Seconds(3, 5), Seconds(2, 6)])
    searches = {
        "given": lambda: Found(None, 0.0, "", seconds=next(given)),
        "measured": lambda: Found(None, 0.0, ""),
    }
    times = measured(searches, rounds=3)
    assert times["given"].seconds == Seconds(2, 6)
    assert times["measured"].seconds.wall < 0.1
