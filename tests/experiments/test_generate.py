"""The job: many prompts into a file, killed and started again; one streamed."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import generate
from experiments.generate import Answers, Config, speak
from experiments.launch import Run

PROMPTS = ["ab cab", "the", "Ça"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("asked") / "asked.txt"
    file.write_text("\n".join(PROMPTS))
    return file


@pytest.fixture
def config(decoder: Path, asked: Path) -> Config:
    """Two prompts at a time, two samples of each."""
    given = {"model": str(decoder), "prompts": str(asked), "max_tokens": 6, "stops": '["\\n"]'}
    return Config(**given, temperature=1.0, samples=2, rows=4)


@pytest.fixture(scope="module")
def whole(decoder: Path, asked: Path, tmp_path_factory) -> Path:
    """The folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    given = {"model": str(decoder), "prompts": str(asked), "max_tokens": 6, "stops": '["\\n"]'}
    speak(Config(**given, temperature=1.0, samples=2, rows=4), Run(folder))
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / generate.NAME).read_text().splitlines()]


class Killed(BaseException):
    """What comes in the middle of the work."""


def test_every_prompt_is_gone_on_from_as_often_as_asked_in_order(whole):
    said = lines(whole)
    assert [(one["line"], one["sample"]) for one in said] == [
        (line, sample) for line in (1, 2, 3) for sample in (1, 2)
    ]
    assert [one["prompt"] for one in said[::2]] == PROMPTS
    assert len({tuple(one["tokens"]) for one in said}) == 6
    for one in said:
        assert one["ended"] in {"maximum", "stop", "end"}
        assert len(one["tokens"]) == 6 or one["ended"] != "maximum"
        assert one["log_likelihood"] < 0
    left = json.loads((whole / "config.json").read_text())
    assert left["config"]["samples"] == left["key"]["samples"] == 2


def test_killed_as_it_writes_it_ends_as_one_that_was_not(config, whole, tmp_path, monkeypatch):
    def add(answers: Answers, records: Any) -> None:
        before = answers.file.stat().st_size
        added(answers, records)
        if before:  # the second block: half of a line of it is written when the kill comes
            with answers.file.open("ab") as stream:
                stream.truncate(before + 20)
            raise Killed

    added, run = Answers.add, Run(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(Answers, "add", add)
        with pytest.raises(Killed):
            speak(config, run)
    assert len((run.workdir / generate.NAME).read_text().splitlines()) == 5
    speak(config, run)
    assert (run.workdir / generate.NAME).read_bytes() == (whole / generate.NAME).read_bytes()


def test_what_is_said_already_is_not_said_again(config, whole, tmp_path, monkeypatch, capsys):
    def load(*_: Any) -> None:
        pytest.fail("weights were read")

    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    monkeypatch.setattr(generate, "_weights", load)
    file = speak(config, Run(folder))
    assert capsys.readouterr().out == f"all of it has been said already; it is in {file}\n"
    assert lines(folder) == lines(whole)


def test_a_folder_of_another_generation_is_refused(config, whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    config.seed = 1
    with pytest.raises(ValueError, match=r"generated.jsonl is of another generation: seed differ"):
        speak(config, Run(folder))


def test_one_prompt_is_streamed(in_process, decoder, whole, tmp_path, monkeypatch, capsys):
    words = f"--config.model={decoder} --config.max_tokens=6 --config.temperature=1"
    given = [*words.split(), '--config.stops=["\\n"]', "--config.samples=2"]
    monkeypatch.setattr(sys, "argv", ["generate", *given, f"--config.prompt={PROMPTS[0]}"])
    monkeypatch.delitem(sys.modules, "experiments.generate.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("experiments.generate", run_name="__main__", alter_sys=True)
    assert not ended.value.code
    texts = [f"{one['text']}\n" for one in lines(whole)[:2]]
    assert capsys.readouterr().out == "".join(texts)
