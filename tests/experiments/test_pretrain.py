"""A pre-training from text to series: what it leaves, killed or not, alone or by two."""

import csv
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from experiments.launch import Run
from experiments.pretrain import Config, learner, pretrain
from ilo_jax.models.hub import saving
from ilo_jax.models.hub.series import read_series
from tests.pairs import ended, free_port, start

STEPS = 9
KEPT = [0, 1, 2, 4, 6, 8, 9]


@pytest.fixture(scope="module")
def config(text) -> Config:
    return Config(
        text=str(text),
        unit="line",
        text_languages="aaa_Latn,bbb_Latn,eng_Latn",
        held_out=0.4,
        vocab=264,
        dim=16,
        layers=2,
        heads=2,
        steps=STEPS,
        rows=16,
        rows_at_once=8,
        row_length=48,
        learning_rate=1e-2,
        warmup=2,
        keep=3,
        save=3,
        corpus=str(text),
        sentences=4,
        batch_tokens=512,
    )


def changed(config: Config, **fields) -> Config:
    return Config(**vars(config) | fields)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The run folder of a training that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    assert pretrain(config, Run(workdir)) == workdir / "series/step0000009"
    return workdir


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def without_seconds(file: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table(file)]


def losses_of(workdir: Path) -> list[float]:
    """Return the held-out loss of every checkpoint."""
    return [one.loss or 0.0 for one in read_series(str(workdir / "series")).checkpoints]


def loaded(auto: Any, folder: str | Path) -> Any:
    """Return a model by transformers, of whose weights none is left out or made up."""
    model, missed = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(missed.values())
    return model


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: every step's loss, the index, and the weights of every checkpoint."""
    assert without_seconds(one / "log.csv") == without_seconds(other / "log.csv")
    names = [file.relative_to(one) for file in sorted((one / "series").rglob("*.*"))]
    assert names == [file.relative_to(other) for file in sorted((other / "series").rglob("*.*"))]
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_training_leaves_its_log_and_a_series(whole):
    log = table(whole / "log.csv")
    assert [int(row["step"]) for row in log] == list(range(1, STEPS + 1))
    assert float(log[0]["loss"]) == pytest.approx(np.log(264), rel=0.05)
    assert float(log[-1]["loss"]) < float(log[0]["loss"]) - 0.5
    found = read_series(str(whole / "series")).checkpoints
    assert [one.step for one in found] == sorted({*KEPT, 3})
    losses = losses_of(whole)
    assert losses[0] == pytest.approx(np.log(264), rel=0.05)
    assert losses[-1] < losses[0] - 0.5
    index = json.loads((whole / "series/series.json").read_text())["checkpoints"]
    assert list(index[0]["bits_per_byte"]) == ["aaa_Latn", "bbb_Latn", "eng_Latn"]
    assert max(index[-1]["bits_per_byte"].values()) < min(index[0]["bits_per_byte"].values())
    record = json.loads((whole / "config.json").read_text())
    assert record["config"]["optimizer"] == "muon"
    assert "config.json" in record["key"]["model"]


def test_transformers_loads_every_checkpoint_with_its_tokenizer(whole):
    for checkpoint in read_series(str(whole / "series"), steps=[0, 9]).checkpoints:
        model = loaded(AutoModelForCausalLM, checkpoint.model)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.model)
        assert len(tokenizer) == model.config.vocab_size == 264
        assert model.config.eos_token_id == tokenizer.eos_token_id
        assert tokenizer.decode(tokenizer("ab cd", add_special_tokens=False).input_ids) == "ab cd"


def interrupt(patch: pytest.MonkeyPatch, *, at: int) -> None:
    """Press Ctrl-C where the rows of a step are asked for."""
    place = learner._batch

    def placed(setting, step):
        if step == at:
            raise KeyboardInterrupt
        return place(setting, step)

    patch.setattr(learner, "_batch", placed)


@pytest.mark.parametrize(
    "at", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 2, 8))]
)
def test_stopped_at_any_step_and_started_again_it_ends_bit_equal(
    config, whole, tmp_path, monkeypatch, at
):
    with monkeypatch.context() as patch:
        interrupt(patch, at=at)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, Run(tmp_path))
    pretrain(config, Run(tmp_path))
    assert_same_run(tmp_path, whole)


def test_a_training_that_has_ended_is_not_begun_again(config, whole, capsys, monkeypatch):
    interrupt(monkeypatch, at=0)
    written = (whole / "config.json").read_bytes()
    (whole / "config.json").unlink()
    assert pretrain(config, Run(whole)) == whole / "series/step0000009"
    assert "has ended already" in capsys.readouterr().out
    assert (whole / "config.json").read_bytes() == written


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 3}, "seed was 0, is 3"),
        ({"optimizer": "adamw"}, "optimizer was 'muon', is 'adamw'"),
        ({"dim": 32}, "model differ"),
        ({"vocab": 265}, "was learnt otherwise: size differ"),
    ],
)
def test_another_training_in_the_folder_is_refused(config, whole, fields, message):
    with pytest.raises(ValueError, match=message):
        pretrain(changed(config, **fields), Run(whole))
    assert len(table(whole / "log.csv")) == STEPS


@pytest.mark.slow
def test_the_languages_are_watched_where_asked_for(config, whole, tmp_path):
    pretrain(changed(config, evaluate=5), Run(tmp_path))
    assert_same_run(tmp_path, whole)
    rows = table(tmp_path / "bits.csv")
    assert sorted({int(row["step"]) for row in rows}) == [0, 5, 9]
    assert (tmp_path / "ilo.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("whole_words", [False, True])
def test_an_encoder_learns_to_find_what_is_hidden(config, tmp_path, whole_words):
    masked = changed(
        config, objective="masked", model="roberta", whole_words=whole_words, steps=30, keep=0
    )
    last = pretrain(masked, Run(tmp_path))
    losses = losses_of(tmp_path)
    assert losses[-1] < losses[0] - 0.5
    assert last is not None
    model, tokenizer = loaded(AutoModelForMaskedLM, last), AutoTokenizer.from_pretrained(last)
    assert tokenizer.mask_token_id is not None
    assert model.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.slow
def test_a_tiny_model_learns_a_page_by_heart(config, tmp_path):
    page = tmp_path / "page"
    page.mkdir()
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("abcdefghij klmno"), 40)) + "." for _ in range(20)]
    (page / "xxx_Latn.txt").write_text("\n".join(lines))
    given = {"text": str(page), "text_languages": "", "held_out": 0.1, "row_length": 64}
    learnt = {
        "steps": 300,
        "dim": 64,
        "heads": 4,
        "rows": 8,
        "rows_at_once": 0,
        "weight_decay": 0.0,
    }
    pretrain(changed(config, **given, **learnt, keep=0), Run(tmp_path / "run"))
    losses = [float(row["loss"]) for row in table(tmp_path / "run/log.csv")]
    assert losses[-1] < 0.1


def command(config: Config, workdir: Path, *flags: str) -> list[str]:
    fields = [f"--config.{name}={value}" for name, value in vars(config).items() if value != ""]
    default = Path(__file__).parents[2] / "configs/pretrain/sample.py"
    return [
        "-m",
        "experiments.pretrain",
        f"--config={default}",
        *fields,
        f"--workdir={workdir}",
        *flags,
    ]


@pytest.mark.slow
def test_killed_at_five_random_moments_it_ends_bit_equal(config, tmp_path):
    """SIGKILL, while steps are taken, and checkpoints and the series are written."""
    long = changed(config, steps=60, keep=5, save=7)
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
def test_told_to_stop_it_saves_and_goes_on(config, whole, tmp_path):
    long = changed(config, steps=400, save=0)
    process = start(command(long, tmp_path))
    log = tmp_path / "log.csv"
    while process.poll() is None and not (log.exists() and len(table(log)) > 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
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
    for step in (0, 9):
        name = f"series/step{step:07d}/model.safetensors"
        one, two = load_file(whole / name), load_file(tmp_path / name)
        for path, weight in one.items():
            assert np.linalg.norm(two[path] - weight) <= 1e-4 * np.linalg.norm(weight), path
    assert losses_of(tmp_path) == pytest.approx(losses_of(whole), rel=1e-5)


def test_killed_before_a_checkpoint_was_whole_it_writes_it_anew(
    config, whole, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_tensors", full)
        with pytest.raises(OSError, match="no room"):
            pretrain(config, Run(tmp_path))
    assert not list((tmp_path / "series").glob("step*"))
