import csv
import dataclasses
import json
import random
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from experiments.finetune import Config, finetune, learner
from experiments.launch import Run
from ilo_jax.models.hub import loading, saving
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh
from ilo_jax.training import run
from tests.pairs import ended, free_port, start

STEPS = 9


@pytest.fixture(scope="session")
def config(learning, text) -> Config:
    return dataclasses.replace(
        learning,
        corpus=str(text),
        sentences=4,
        steps=STEPS,
        learning_rate=1e-3,
        warmup=2,
        evaluate=4,
        save=3,
        freeze="paper:1",
    )


def changed(config: Config, **fields) -> Config:
    return Config(**vars(config) | fields)


@pytest.fixture(scope="session")
def whole(config, tmp_path_factory) -> Path:
    """The run folder of a training that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    finetune(config, Run(workdir))
    return workdir


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def without_seconds(file: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table(file)]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, every step's loss, every evaluation."""
    for name in ("bits.csv", "ilo.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert without_seconds(one / "log.csv") == without_seconds(other / "log.csv")
    weights = "model/model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()


def test_a_training_leaves_its_log_its_evaluations_and_its_model(whole, decoder, text):
    log = table(whole / "log.csv")
    assert [int(row["step"]) for row in log] == list(range(1, STEPS + 1))
    assert float(log[0]["loss"]) == pytest.approx(np.log(257), rel=0.2)
    assert float(log[-1]["loss"]) < float(log[0]["loss"]) - 0.2
    rates = [float(row["learning_rate"]) for row in log]
    assert rates[:3] == pytest.approx([0, 5e-4, 1e-3])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    languages = sorted(file.stem for file in text.glob("*.txt"))
    bits = table(whole / "bits.csv")
    assert [int(row["step"]) for row in bits] == [s for s in (0, 4, 8, 9) for _ in languages]
    assert sorted({row["language"] for row in bits}) == languages
    assert float(bits[-1]["bits_per_byte"]) < float(bits[0]["bits_per_byte"])
    assert len(table(whole / "ilo.csv")) == 4 * 4 * len(languages)
    record = json.loads((whole / "config.json").read_text())
    assert record["config"]["freeze"] == "paper:1"
    assert "model.safetensors" in record["key"]["model"]
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    assert model.config.num_hidden_layers == 3


def test_what_is_frozen_is_as_it_was_and_all_else_moved(whole, decoder):
    before = load_file(decoder / "model.safetensors")
    after = load_file(whole / "model/model.safetensors")
    assert set(before) == set(after)
    frozen = {n for n in before if ".layers.0." in n or "layers" not in n}
    assert len(frozen) == 11
    for name, weight in before.items():
        assert np.array_equal(weight, after[name]) == (name in frozen), name


def test_bits_per_byte_are_those_of_the_model_that_is_saved(whole, config, text):
    """By torch, sentence by sentence, from the folder that the training left."""
    model = AutoModelForCausalLM.from_pretrained(whole / "model").eval()
    tokenizer = open_folder(whole / "model").tokenizer
    for row in table(whole / "bits.csv")[-6:]:
        sentences = (text / f"{row['language']}.txt").read_text().splitlines()[:4]
        nats = 0.0
        for sentence in sentences:
            ids = torch.tensor([[0, *tokenizer(sentence)["input_ids"]]])
            with torch.no_grad():
                scores = model(ids).logits[0, :-1].double().log_softmax(-1)
            nats -= scores[torch.arange(len(scores)), ids[0, 1:]].sum().item()
        size = sum(len(sentence.encode()) for sentence in sentences)
        assert float(row["bits_per_byte"]) == pytest.approx(nats / np.log(2) / size, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_kept_states_of_frozen_blocks_change_no_loss(whole, config, tmp_path, kind, capsys):
    finetune(changed(config, frozen_states=kind, evaluate=0), Run(tmp_path / "run"))
    assert "states of the 1 frozen blocks: " in capsys.readouterr().out
    assert (tmp_path / "run/frozen").is_dir() == (kind == "disk")
    for ours, theirs in zip(table(tmp_path / "run/log.csv"), table(whole / "log.csv"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-6)


def interrupt(patch: pytest.MonkeyPatch, *, at: int) -> None:
    """Press Ctrl-C where the rows of a step are asked for."""
    place = learner.place_rows

    def placed(text, order, step, mesh):
        if step == at:
            raise KeyboardInterrupt
        return place(text, order, step, mesh)

    patch.setattr(learner, "place_rows", placed)


@pytest.mark.parametrize(
    "at", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 2, 8))]
)
def test_stopped_at_any_step_and_started_again_it_ends_bit_equal(
    config, whole, tmp_path, monkeypatch, at
):
    with monkeypatch.context() as patch:
        interrupt(patch, at=at)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, Run(tmp_path))
    assert not (tmp_path / "model").exists()
    finetune(config, Run(tmp_path))
    assert_same_run(tmp_path, whole)


def test_stopped_before_its_model_was_saved_it_only_saves_it(config, whole, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save", full)
        with pytest.raises(OSError, match="no room"):
            finetune(config, Run(tmp_path))
    interrupt(monkeypatch, at=STEPS - 1)
    finetune(config, Run(tmp_path))
    assert_same_run(tmp_path, whole)


def test_a_training_that_has_ended_is_not_begun_again(config, whole, capsys, monkeypatch):
    interrupt(monkeypatch, at=0)
    assert finetune(config, Run(whole)) == whole / "model"
    assert "has ended already" in capsys.readouterr().out


def test_what_the_run_was_is_written_down_where_it_is_missing(config, whole, monkeypatch):
    """It may have been killed after its model was saved, before it could."""
    written = (whole / "config.json").read_bytes()
    (whole / "config.json").unlink()
    interrupt(monkeypatch, at=0)
    finetune(config, Run(whole))
    assert (whole / "config.json").read_bytes() == written


@pytest.mark.slow
def test_another_seed_learns_in_another_order(config, whole, tmp_path):
    finetune(changed(config, seed=1, evaluate=0), Run(tmp_path))
    losses = [[row["loss"] for row in table(w / "log.csv")] for w in (whole, tmp_path)]
    assert losses[0] != losses[1]


def test_a_learning_rate_that_diverges_stops_and_keeps_what_was_good(config, tmp_path):
    wild = changed(config, learning_rate=1e20, clip=0.0, evaluate=0, save=1, warmup=0)
    with pytest.raises(
        FloatingPointError, match=r"step \d+ diverged: loss .*; that of step (\d+) "
    ) as error:
        finetune(wild, Run(tmp_path))
    kept = max(int(f.name) for f in (tmp_path / "checkpoints").iterdir() if f.name.isdigit())
    assert f"that of step {kept} stays" in str(error.value)
    assert f"step {kept + 1} diverged" in str(error.value)
    assert len(table(tmp_path / "log.csv")) == kept


def test_too_little_memory_names_what_to_change(config, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(run, "make_step", lambda *_, **__: full)
    with pytest.raises(
        MemoryError, match=r"for 8 rows of 128 tokens; try fewer rows_at_once, remat"
    ):
        finetune(changed(config, evaluate=0), Run(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": "none"}, "freeze was 'paper:1', is 'none'"),
        ({"learning_rate": 2e-3, "seed": 3}, "learning_rate was 0.001, is 0.002; seed was 0, is 3"),
        ({"row_length": 64}, "row_length was 128, is 64"),
    ],
)
def test_checkpoints_of_another_training_are_refused(config, whole, fields, message):
    with pytest.raises(ValueError, match="are of another training") as error:
        finetune(changed(config, **fields), Run(whole))
    assert message in str(error.value)
    assert len(table(whole / "log.csv")) == STEPS


def test_checkpoints_of_another_model_are_refused(config, whole, decoder, tmp_path):
    other = tmp_path / "other"
    folder = open_folder(decoder)
    model = loading.load(folder, mesh=make_mesh(), dtype="bfloat16")
    saving.save(model, other, raw=folder.raw, beside=folder.path)
    with pytest.raises(ValueError, match=r"are of another training: model differ \(model was"):
        finetune(changed(config, model=str(other)), Run(whole))


def test_a_folder_in_the_way_of_the_model_is_refused(config, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(FileExistsError, match=r"model is there, but the training .* not ended"):
        finetune(config, Run(tmp_path))


@pytest.mark.slow
def test_scalars_go_to_tensorboard_where_asked_for(config, tmp_path, monkeypatch):
    found = []

    class Writer:
        def __init__(self, folder):
            found.append(folder)

        def add_scalar(self, name, value, step):
            found.append((name, step, float(value)))

    monkeypatch.setitem(sys.modules, "tensorboardX", type(sys)("tensorboardX"))
    sys.modules["tensorboardX"].SummaryWriter = Writer  # pyright: ignore
    finetune(changed(config, tensorboard=True), Run(tmp_path))
    assert found[0] == str(tmp_path / "tensorboard")
    names = {name for name, *_ in found[1:]}
    assert {"loss", "learning_rate", "bits_per_byte/eng_Latn", "ilo/000"} <= names
    losses = [value for name, _, value in found[1:] if name == "loss"]
    logged = [float(row["loss"]) for row in table(tmp_path / "log.csv")]
    assert losses == pytest.approx(logged, rel=1e-6)


def command(config: Config, workdir: Path, *flags: str) -> list[str]:
    fields = [f"--config.{name}={value}" for name, value in vars(config).items() if value != ""]
    default = Path(__file__).parents[2] / "configs/finetune/smollm2.py"
    given = ["--config.languages=", "--config.split=", f"--workdir={workdir}"]
    return ["-m", "experiments.finetune", f"--config={default}", *fields, *given, *flags]


@pytest.mark.slow
def test_killed_at_five_random_moments_it_ends_bit_equal(config, tmp_path):
    """SIGKILL, while steps are taken, checkpoints written and the model saved."""
    long = changed(config, steps=60, evaluate=25, save=7)
    rng, kills = random.Random(0), 0
    (whole,) = ended([start(command(long, tmp_path / "whole"))])
    assert whole.returncode == 0, whole.stderr
    while kills < 5:
        process = start(command(long, tmp_path / "killed"))
        log = tmp_path / "killed/log.csv"
        begun = len(table(log)) if log.exists() else 0
        wanted = begun + rng.randrange(2, 14)
        while process.poll() is None and not (log.exists() and len(table(log)) >= wanted):
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    (last,) = ended([start(command(long, tmp_path / "killed"))])
    assert last.returncode == 0, last.stderr
    assert "continuing after step" in last.stdout
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_told_to_stop_it_saves_and_goes_on(config, tmp_path):
    long = changed(config, steps=400, evaluate=0, save=0)
    process = start(command(long, tmp_path))
    while process.poll() is None and not (
        (tmp_path / "log.csv").exists() and len(table(tmp_path / "log.csv")) > 3
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stopped after step" in output
    assert not (tmp_path / "model").exists()
    saved = [f.name for f in (tmp_path / "checkpoints").iterdir() if f.name.isdigit()]
    assert len(saved) == 1
    assert f"stopped after step {saved[0]};" in output


@pytest.mark.slow
def test_two_processes_train_as_one(config, whole, tmp_path):
    port = free_port()
    where = ["--distributed", f"--coordinator=localhost:{port}", "--processes=2"]
    runs = ended([
        start(
            command(config, tmp_path, *where, f"--process={number}"),
            XLA_FLAGS="--xla_force_host_platform_device_count=1",
        )
        for number in range(2)
    ])
    assert [run.returncode for run in runs] == [0, 0], [run.stderr for run in runs]
    for ours, theirs in zip(table(tmp_path / "log.csv"), table(whole / "log.csv"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-5)
    one, two = (load_file(w / "model/model.safetensors") for w in (whole, tmp_path))
    for name, weight in one.items():
        assert np.linalg.norm(two[name] - weight) <= 1e-5 * np.linalg.norm(weight), name
    for ours, theirs in zip(table(tmp_path / "bits.csv"), table(whole / "bits.csv"), strict=True):
        assert float(ours["bits_per_byte"]) == pytest.approx(
            float(theirs["bits_per_byte"]), rel=1e-5
        )


@pytest.mark.slow
def test_a_full_disk_during_a_save_is_said_and_the_run_goes_on_later(config, whole, tmp_path):
    """Only the checkpoint is too large for the limit: log and evaluations fit."""
    _, script, *flags = command(config, tmp_path)
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        f"sys.argv = ['x', *{flags!r}]\n"
        f"runpy.run_module({script!r}, run_name='__main__')\n"
    )
    devices = "--xla_force_host_platform_device_count=8"
    (process,) = ended([start(["-c", limited], XLA_FLAGS=devices)])
    assert process.returncode == 1
    assert "error: cannot write a checkpoint in" in process.stderr, process.stderr
    assert not (tmp_path / "model").exists()
    finetune(config, Run(tmp_path))
    assert_same_run(tmp_path, whole)
