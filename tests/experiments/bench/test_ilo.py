"""The comparison is of the same work, and says so if it is not."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.bench import ilo as bench_ilo
from experiments.bench.rivals.searchers import Found
from experiments.extract import Config, extract
from experiments.launch import Run
from ilo_jax.activations.store import Store

ROOT = Path(__file__).parents[3]


def run(*given: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.bench.ilo", *given]
    environment = os.environ | {"XLA_FLAGS": "", "OMP_NUM_THREADS": "2"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "times.csv").open(newline="") as text:
        return list(csv.DictReader(text))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.mark.slow
def test_a_comparison_leaves_a_table_and_a_picture(workdir):
    sizes = ["--lang=4", "--sent=30,40", "--dims=16", "--rounds=1", f"--workdir={workdir}"]
    done = run(*sizes, "--searchers=exact,paper,products")
    assert done.returncode == 0, done.stderr
    found = rows(workdir)
    assert [(r["points"], r["searcher"]) for r in found] == [
        (points, name) for points in ("120", "160") for name in ("exact", "paper", "products")
    ]
    for row in found:
        seconds, floor = float(row["seconds"]), float(row["of_floor"])
        assert float(row["gflops"]) == pytest.approx(
            2 * int(row["points"]) ** 2 * 16 / seconds / 1e9, abs=0.06, rel=0.1
        )
        assert (row["memory_mib"] == "") == (row["searcher"] == "products")
        assert floor > 0
        assert (row["recall"] == "") == (row["searcher"] == "products")
        assert row["recall"] in ("", "1.0")
    assert (workdir / "times.png").read_bytes().startswith(b"\x89PNG")
    assert "of_floor" in done.stdout


@pytest.fixture(scope="module")
def store(tiny, text, tmp_path_factory) -> Store:
    """What `experiments.extract` leaves."""
    languages = "aaa_Latn,bbb_Latn,ccc_Latn,eng_Latn"
    config = Config(model=str(tiny), corpus=str(text), languages=languages)
    return extract(config, Run(tmp_path_factory.mktemp("extracted"))).store


def test_stored_states_are_searched_and_rows_added(workdir, store):
    before = len(rows(workdir)) if (workdir / "times.csv").is_file() else 0
    given = [f"--states={store.url}", "--layers=0,2", "--rounds=1", f"--workdir={workdir}"]
    done = run(*given, "--searchers=exact", "--nomemory")
    assert done.returncode == 0, done.stderr
    assert len(rows(workdir)) == before + 2
    assert [row["states"] for row in rows(workdir)[before:]] == ["state 0", "state 2"]
    assert {row["points"] for row in rows(workdir)[before:]} == {"48"}


def test_stored_states_are_those_of_the_store(store, monkeypatch):
    flags = {"states": store.url, "array": "residual_mean", "layers": ["2", "0"]}
    monkeypatch.setattr(bench_ilo, "FLAGS", SimpleNamespace(**flags))
    for layer, (label, given, states) in zip((2, 0), bench_ilo.inputs(), strict=True):
        assert label == f"state {layer}"
        assert given[-1] == f"--layers={layer}"
        np.testing.assert_array_equal(states, store.read("residual_mean", layer))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--states=none"], "error: no states at none: name a folder such as WORKDIR/states/KEY"),
        pytest.param(
            ["--array=neurons_max"], "error: cannot open neurons_max in ", marks=pytest.mark.slow
        ),
        pytest.param(["--layers=0,3"], "error: layer must be one that ", marks=pytest.mark.slow),
    ],
)
def test_states_that_are_not_there_are_named(store, tmp_path, given, message):
    states, searchers = f"--states={store.url}", ["--searchers=paper", "--rounds=1", "--nomemory"]
    done = run(states, *given, *searchers, f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


def test_unknown_searchers_are_refused(tmp_path):
    done = run("--searchers=exact,best", f"--workdir={tmp_path / 'none'}")
    assert done.returncode != 0
    assert "got ['best']" in done.stdout + done.stderr
    assert not (tmp_path / "none").exists()


def test_flags_that_fit_no_run_are_named(tmp_path, monkeypatch):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    for name in ("other.csv", "empty.csv"):
        with pytest.raises(ValueError, match=f"that this benchmark has left, got .*{name}$"):
            bench_ilo.plotted([str(tmp_path / name)])
    some = ("synthetic", [], np.zeros((2, 3, 4)))
    for searchers, given in (([], [some]), (["exact", "paper"], [some]), (["exact"], [some] * 2)):
        said = f"got {len(searchers)} of --searchers and {len(given)} inputs$"
        with pytest.raises(ValueError, match=said):
            bench_ilo.search_once(searchers, given)
    monkeypatch.setattr(bench_ilo, "FLAGS", SimpleNamespace(states=None, sent=["x"], dims=["4"]))
    with pytest.raises(ValueError, match=r"^--sent must list whole numbers of at least 1, got 'x'"):
        list(bench_ilo.inputs())


def test_states_are_as_models_have_them():
    points = bench_ilo.synthetic(6, 50, 64).reshape(300, 64)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert 0.98 < (unit @ unit.T).mean() < 0.999


def test_truth_is_by_cosine():
    states = bench_ilo.synthetic(3, 20, 8)
    points = states.reshape(60, 8).astype(np.float64)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(60)
    found = bench_ilo.truth(states, np.arange(60), 5)
    np.testing.assert_array_equal(
        np.sort(found, axis=1), np.sort(np.argsort(-cosine, axis=1)[:, :5], axis=1)
    )


def test_recall_is_a_share():
    assert bench_ilo.recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 5]])) == 0.75


@pytest.mark.parametrize("certain", [True, False])
def test_proven_differences_stop_the_run(certain):
    index = np.array([[1, 2], [0, 2], [0, 1]])
    other = np.array([[2, 1], [0, 2], [1, 3]])
    proven = np.array([True, True, certain])
    found = {
        "exact": Found(index, np.ones(3, bool)),
        "paper": Found(index[::-1]),
        "fast": Found(other, proven),
    }
    if certain:
        with pytest.raises(ValueError, match=r"^1 points are proven differently: exact, fast$"):
            bench_ilo.refuse_differences(found)
    else:
        bench_ilo.refuse_differences(found)
