"""Extraction as a command: several processes, killed and resumed, refused."""

import dataclasses
import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from experiments.extract import Config, extract
from experiments.launch import Run
from tests.pairs import ended, free_port, start

TAPS = "residual:mean,neurons:last@1,residual:tokens@2"
SMALL = """
import runpy, sys
from ilo_jax.activations import schedule
schedule.BLOCK_BATCHES = 1
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def flags(tiny: Path, text: Path) -> list[str]:
    return [f"--config.model={tiny}", f"--config.corpus={text}", "--config.batch_tokens=256"]


def pair(command: list[str], **environment: str) -> list:
    """Two processes of one run, four devices each."""
    where = ["--distributed", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    environment |= {"JAX_NUM_CPU_DEVICES": "4"}
    return [start([*command, *where, f"--process={i}"], **environment) for i in range(2)]


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    """All there is in the only store of a run folder; what is not there is zero."""
    (folder,) = [p for p in (workdir / "states").iterdir() if p.is_dir()]
    group = zarr.open_group(folder, mode="r")
    return {name: np.nan_to_num(array[:]) for name, array in group.arrays()}


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    norms = np.linalg.norm(expected, axis=-1)
    return np.max(np.linalg.norm(got - expected, axis=-1)[norms > 0] / norms[norms > 0])


@pytest.mark.slow
@pytest.mark.parametrize("model_parallel", [1, 8])
def test_two_processes_store_what_one_does(flags, tmp_path, model_parallel):
    """By languages of their own; with the model over all devices, by the first of them."""
    command = ["-m", "experiments.extract", *flags, f"--config.taps={TAPS}"]
    split = [*command, f"--config.model_parallel={model_parallel}", f"--workdir={tmp_path}/two"]
    both = pair(split)
    for process in ended([*both, start([*command, f"--workdir={tmp_path}/one"])]):
        assert process.returncode == 0, process.stderr
    one, two = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert one.keys() == two.keys()
    assert (two["complete"] == 1).all()
    for name in ("residual_mean", "neurons_last", "residual_tokens"):
        assert relative(two[name], one[name]) <= 1e-5
    for name in ("lengths", "token_ids"):
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.slow
def test_a_process_without_a_language_waits(flags, tmp_path):
    command = ["-m", "experiments.extract", *flags, "--config.languages=eng_Latn"]
    both = pair([*command, f"--workdir={tmp_path}/two"])
    for process in ended([*both, start([*command, f"--workdir={tmp_path}/one"])]):
        assert process.returncode == 0, process.stderr
    one, two = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert relative(two["residual_mean"], one["residual_mean"]) <= 1e-5


@pytest.mark.slow
def test_two_processes_score_what_one_does(flags, tmp_path):
    command = ["-m", "experiments.ilo", *flags, "--config.min_languages=2"]
    both = pair([*command, f"--workdir={tmp_path}/two"])
    done = ended([*both, start([*command, f"--workdir={tmp_path}/one"])])
    for process in done:
        assert process.returncode == 0, process.stderr
    assert "wrote scores.csv" in done[0].stdout
    assert "scores" not in done[1].stdout
    assert (tmp_path / "one/scores.csv").read_text() == (tmp_path / "two/scores.csv").read_text()


def test_bad_input_ends_all_processes(flags, tmp_path):
    for process in ended(pair(["-m", "experiments.extract", *flags, "--config.corpus=nowhere"])):
        assert process.returncode == 1
        assert "error: no corpus at nowhere" in process.stderr
    both = ended(pair(["-m", "experiments.extract", *flags, "--config.model_parallel=3"]))
    assert [process.returncode for process in both] == [1, 1]
    said = "error: model_parallel must divide the number of devices, 8, or some would be idle"
    assert all(said in process.stderr for process in both)
    assert all("start all processes again" in process.stderr for process in both)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_what_one_process_dies_of_the_other_is_told_at_once(flags, tmp_path, failing):
    """Not after `--patience`, and not by a stack: whichever it is."""
    broken = "from ilo_jax.activations.store import Store\ndef write(*a):\n"
    broken += "    raise OSError('no disk')\n"
    broken += f"import sys\nif '--process={failing}' in sys.argv:\n    Store.write = write\n"
    done = ended(
        pair(["-c", broken + SMALL, "experiments.extract", *flags, f"--workdir={tmp_path}"])
    )
    assert [process.returncode for process in done] == [1, 1]
    assert "error: no disk\nstart all processes again" in done[failing].stderr
    assert f"error: process {failing} failed: no disk\nstart all" in done[1 - failing].stderr


@pytest.mark.slow
def test_a_second_run_on_the_store_is_refused(flags, tmp_path):
    """The first waits inside; the second is told; the first is killed, and a third may go on."""
    slow = "import time\nfrom ilo_jax.activations.store import Store\nwrite = Store.write\n"
    slow += "def wait(*a):\n    write(*a)\n    time.sleep(600)\nStore.write = wait\n"
    quick = "from ilo_jax import files\nfiles.LEASE_SECONDS = 2\n"
    command = ["experiments.extract", *flags, f"--workdir={tmp_path}"]
    first = start(["-c", quick + slow + SMALL, *command])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("states/*/complete/c/*")) and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.05)
    (second,) = ended([start(["-c", quick + SMALL, *command])])
    assert second.returncode == 1
    assert "error: another run is writing into" in second.stderr
    first.kill()
    first.communicate()
    (third,) = ended([start(["-c", quick + SMALL, *command])])
    assert third.returncode == 0, third.stderr
    assert (arrays(tmp_path)["complete"] == 1).all()
    assert not list(tmp_path.glob("states/*/lock"))


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_bit_equal(flags, tmp_path):
    command = ["experiments.extract", *flags, f"--config.taps={TAPS}"]
    begun = time.monotonic()
    (whole,) = ended([start(["-c", SMALL, *command, f"--workdir={tmp_path}/whole"])])
    assert whole.returncode == 0, whole.stderr
    length, moments = time.monotonic() - begun, random.Random(0)
    killed = 0
    while killed < 10:
        process = start(["-c", SMALL, *command, f"--workdir={tmp_path}/killed"])
        time.sleep(length * moments.uniform(0.3, 1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
    (last,) = ended([start(["-c", SMALL, *command, f"--workdir={tmp_path}/killed"])])
    assert last.returncode == 0, last.stderr
    one, other = arrays(tmp_path / "whole"), arrays(tmp_path / "killed")
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.mark.slow
def test_a_process_that_vanishes_ends_the_other_and_the_run_goes_on(flags, tmp_path):
    slow = "import time\nfrom ilo_jax.activations.store import Store\nwrite = Store.write\n"
    slow += "def wait(*a):\n    write(*a)\n    time.sleep(3)\nStore.write = wait\n"
    command = ["experiments.extract", *flags, f"--workdir={tmp_path}", "--patience=10"]
    first, second = pair(["-c", slow + SMALL, *command])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("states/*/complete/c/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    second.kill()
    left, _ = ended([first, second])
    assert left.returncode != 0
    assert "error: " in left.stderr or "JAX distributed service" in left.stderr
    for process in ended(pair(["-c", SMALL, *command])):
        assert process.returncode == 0, process.stderr
    assert (arrays(tmp_path)["complete"] == 1).all()


def test_states_may_be_stored_in_half_the_bytes(tiny, text, tmp_path):
    config = Config(model=str(tiny), corpus=str(text), batch_tokens=256)
    whole = extract(config, Run(tmp_path / "whole")).store
    config.stored_dtype = "bfloat16"
    half = extract(config, Run(tmp_path / "half")).store
    folder = Path(half.url) / "residual_mean"
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    assert tensorstore.open(spec).result().dtype.name == "bfloat16"
    for layer in range(3):
        one, other = (store.read("residual_mean", layer) for store in (whole, half))
        np.testing.assert_allclose(other, one, rtol=2**-8)


def test_what_the_states_are_of_is_written_down(tiny, text, tmp_path):
    config = Config(model=str(tiny), corpus=str(text), batch_tokens=256, states=f"{tmp_path}/s")
    stored = extract(config, Run(tmp_path / "run"))
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["config"] == dataclasses.asdict(config)
    assert record["key"] == json.loads(json.dumps(stored.key))
    assert Path(stored.store.url).name == record["ran_on"]["states"]
    assert [session["batch_tokens"] for session in record["ran_on"]["computed"]] == [256]


def test_taps_that_the_model_has_not_are_refused(tiny, text, tmp_path):
    config = Config(model=str(tiny), corpus=str(text), taps="residual:mean@3,neurons:max@2")
    with pytest.raises(ValueError, match=r"layers in \[0, 2\] of residual.*\[0, 1\] of neurons"):
        extract(config, Run(tmp_path))


def test_a_trace_is_left_where_asked_for(tiny, text, tmp_path):
    config = Config(model=str(tiny), corpus=str(text), batch_tokens=256)
    extract(config, Run(tmp_path, profile=True))
    assert list(tmp_path.glob("trace/**/*.xplane.pb"))
