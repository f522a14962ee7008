"""Whether jobs fit devices; most of these are the CPU's, whose memory is said to be small."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments import extract, finetune, fit
from experiments.fit.workload import Asked
from ilo_jax.chips import CHIPS, GIB
from ilo_jax.models.hub import repository
from ilo_jax.topologies import Topology

ASKED = Asked(row_length=64, segments=4, points=(4, 6))
TRAINING = """
from experiments.finetune import Config
def get_config(): return Config(model="decoder", rows=8, row_length=32, freeze="paper:1")
"""


@pytest.fixture
def decoder_alone(decoder: Path, tmp_path: Path) -> str:
    """A folder that has config.json and nothing else."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/config.json").write_bytes((decoder / "config.json").read_bytes())
    return str(tmp_path / "alone")


@pytest.fixture
def file(decoder_alone: str, tmp_path: Path) -> str:
    """A configuration of an extraction from it."""
    text = "from experiments.extract import Config\n"
    text += f"def get_config(): return Config(model={decoder_alone!r}, batch_tokens=512)\n"
    (tmp_path / "mine.py").write_text(text)
    return str(tmp_path / "mine.py")


@pytest.fixture
def config(decoder_alone: str) -> extract.Config:
    return extract.Config(model=decoder_alone, batch_tokens=512)


@pytest.fixture
def memory(monkeypatch) -> Any:
    """Return what gives the devices of this process so much memory."""

    def give(usable: float) -> None:
        devices = Topology(CHIPS["v5e"]._replace(usable=usable), jax.devices())
        monkeypatch.setattr(fit, "topology", lambda name: devices)

    return give


def test_a_job_is_compiled_for_a_slice_and_its_text_is_left(tpu, config, file, tmp_path, capsys):
    tpu("v5e:2x2")
    given: dict[str, Any] = {"on": "v5e:2x2", "file": file, "save": str(tmp_path / "saved")}
    config.model_parallel = 2
    assert fit.fit(config, ASKED, **given)
    out = capsys.readouterr().out
    assert "v5e:2x2: 4 devices as 2 x 2 (data x model)\n" in out
    assert "extraction of 16 rows of 64 tokens, up to 4 sentences each\n" in out
    assert "0% of the 15.75 GiB that a program may take: it fits\n" in out
    # Two for each of three blocks; a vocabulary of 257 is not split over two devices.
    assert re.search(r"sent by 6 all-reduce +0\.000 GiB +200 GB/s", out)
    assert re.search(r"compiled in [\d.]+ s: \d+ distinct parts of \d+\n", out)
    texts = [file.read_text() for file in sorted((tmp_path / "saved/0").iterdir())]
    assert len(texts) == int(re.findall(r"(\d+) distinct", out)[0])
    assert all("ENTRY" in text for text in texts)


def test_what_does_not_fit_as_it_lies_is_not_compiled_and_what_would_fit_is_named(
    config, file, memory, capsys
):
    memory(120_000)
    assert not fit.fit(config, ASKED, on="v5e:2x4", file=file)
    out = capsys.readouterr().out
    assert "it does not fit before anything is computed, and nothing was compiled" in out
    found = re.search(
        r"by counting this fits, with about 0\.00 GiB \(--suggest compiles it\): (.*)", out
    )
    assert found
    assert re.fullmatch(
        rf"python -m experiments.extract --config={file} (--config\.\w+=\w+ ?)+", found[1]
    )


def test_the_devices_that_are_asked_about_choose_how_much_is_computed_at_a_time(
    tpu, config, file, monkeypatch, capsys
):
    slice_of_four = tpu("v5e:2x2")._replace(chip=CHIPS["v5e"]._replace(usable=1000))
    monkeypatch.setattr(fit, "topology", lambda name: slice_of_four)
    config.batch_tokens = 0
    assert not fit.fit(config, ASKED, on="v5e:2x2", file=file)
    said = capsys.readouterr().out
    assert f"extraction of {4 * 4096 // 64} rows of 64 tokens, up to 4 sentences each\n" in said


def test_where_nothing_fits_more_devices_are_named(config, file, memory, capsys):
    memory(1000)
    assert not fit.fit(config, ASKED, on="v5e:2x4", file=file)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "no settings that were tried fit v5e:2x4; nor does any larger v5e listed here"


def test_suggestions_are_compiled_until_one_fits(config, file, memory, capsys):
    memory(GIB)
    assert fit.fit(config, ASKED, on="v5e:2x4", file=file, suggest=True)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"as it is: about 0\.0\d GiB by counting; compiling it", lines[0])
    assert lines[-1] == f"python -m experiments.extract --config={file}"


def test_no_more_suggestions_are_compiled_than_some(config, file, memory, monkeypatch, capsys):
    memory(GIB)
    monkeypatch.setattr(fit, "_tell", lambda *_: False)
    assert not fit.fit(config, ASKED, on="v5e:2x4", file=file, suggest=True)
    lines = capsys.readouterr().out.splitlines()
    assert sum("compiling it" in line for line in lines) == fit.TRIES
    assert lines[-1].startswith("no settings that were tried fit v5e:2x4; by counting, v5e:4x4")


def test_what_the_compiler_refuses_does_not_fit(config, file, memory, monkeypatch, capsys):
    def refuse(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: ran out of memory\nmore")

    memory(GIB)
    monkeypatch.setattr("experiments.fit.extraction.made_by_parts", refuse)
    assert not fit.fit(config, ASKED, on="v5e:2x4", file=file)
    assert "it does not fit: RESOURCE_EXHAUSTED: ran out of memory\n" in capsys.readouterr().out


def test_other_failures_of_the_compiler_are_not_hidden(config, file, memory, monkeypatch):
    def fail(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: planted")

    memory(GIB)
    monkeypatch.setattr("experiments.fit.extraction.made_by_parts", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="planted"):
        fit.fit(config, ASKED, on="v5e:2x4", file=file)


def test_of_a_model_of_the_hub_nothing_but_its_settings_is_fetched(
    config, decoder_alone, memory, monkeypatch
):
    def fetch(name, *, revision, allow_patterns):
        fetched.append((name, allow_patterns))
        return decoder_alone

    fetched: list[Any] = []
    memory(1000)
    monkeypatch.setattr(repository.huggingface_hub, "snapshot_download", fetch)
    config.model = "owner/name"
    fit.fit(config, ASKED, on="v5e:2x4", file="configs/extract/sample.py")
    assert fetched == [("owner/name", ["config.json", "adapter_config.json"])]


def test_a_mesh_that_does_not_fit_the_devices_is_refused_with_those_that_do(config, file, memory):
    memory(GIB)
    config.model_parallel = 3
    with pytest.raises(ValueError, match=r"devices, 8, .*: one of 1, 2, 4, 8; got 3$"):
        fit.fit(config, ASKED, on="v5e:2x4", file=file)


@pytest.mark.parametrize("fits", [True, False])
def test_the_command_line(in_process, tmp_path, monkeypatch, fits):
    def answer(*args: Any, **named: Any) -> bool:
        asked.append((args, named))
        return fits

    asked: list[Any] = []
    (tmp_path / "mine.py").write_text(TRAINING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit, "fit", answer)
    words = "--config=mine.py --config.rows=16 --on=v5e:4x4 --points=3x7 --segments=5 --suggest"
    monkeypatch.setattr(sys, "argv", ["fit", *words.split()])
    monkeypatch.delitem(sys.modules, "experiments.fit.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("experiments.fit", run_name="__main__", alter_sys=True)
    assert ended.value.code == (0 if fits else 1)
    config = finetune.Config(model="decoder", rows=16, row_length=32, freeze="paper:1")
    named = {"on": "v5e:4x4", "file": "mine.py", "suggest": True, "save": ""}
    assert asked == [((config, Asked(512, 5, (3, 7))), named)]
