"""The main job, end to end on a tiny model: what it leaves, re-uses, survives and refuses."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import zarr
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel

from experiments import states
from experiments.ilo import Config, measure
from experiments.launch import Run
from ilo_jax.corpora.packing import Sentences
from ilo_jax.corpora.tokens import token_ids
from ilo_jax.recipes import FORWARD

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny: Path, text: Path) -> Config:
    return Config(model=str(tiny), corpus=str(text), batch_tokens=256)


def rows(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "scores.csv").open() as stream:
        return list(csv.DictReader(stream))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.ilo", *arguments]


def reference(tiny: Path, text: Path, languages: list[str]) -> np.ndarray:
    """Pooled states "layer point dim" by torch, one sentence at a time."""
    model = BertModel.from_pretrained(tiny, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    points = []
    for code in languages:
        for sentence in (text / f"{code}.txt").read_text().splitlines():
            batch = tokenizer([sentence], return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                states = model(**batch, output_hidden_states=True).hidden_states
            points.append([state[0].double().mean(0).numpy() for state in states])
    return np.array(points).swapaxes(0, 1)


def bridge(points: np.ndarray, sent: int, *, k: int, t: int) -> np.ndarray:
    """The definition, in float64 loops."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    counts = np.zeros(len(points) // sent)
    for i, row in enumerate(unit @ unit.T):
        row[i] = -np.inf
        touched = {j // sent for j in np.argsort(-row)[:k]} - {i // sent}
        counts[i // sent] += len(touched) >= t
    return counts / sent


def test_scores_are_those_of_torch_and_the_definition(config, tiny, text, tmp_path):
    config.min_languages = 2
    scores = measure(config, Run(tmp_path))
    languages = sorted(p.stem for p in text.glob("*.txt"))
    for state, points in enumerate(reference(tiny, text, languages)):
        certain = scores.uncertain[state] == 0
        assert certain.sum() >= 5
        expected = bridge(points, 12, k=5, t=2)
        np.testing.assert_allclose(scores.bridge[state][certain], expected[certain], atol=1e-6)


def test_it_leaves_a_row_per_state_and_language(config, text, tmp_path):
    scores = measure(config, Run(tmp_path))
    table = rows(tmp_path)
    languages = sorted(p.stem for p in text.glob("*.txt"))
    assert [(r["state"], r["language"]) for r in table] == [
        (str(s), code) for s in range(3) for code in languages
    ]
    np.testing.assert_allclose([float(r["ilo"]) for r in table], scores.ilo.ravel(), rtol=1e-5)
    assert (tmp_path / "ilo.png").stat().st_size > 10_000
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["k"] == 5
    assert set(record["key"]["model"]) >= {"model.safetensors", "tokenizer.json"}
    assert set(record["ran_on"]["versions"]) >= {"python", "jax", "flax", "transformers"}
    (session,) = record["ran_on"]["computed"]
    assert session["tokens"] > 0
    assert session["batch_tokens"] == 256


def test_names_are_text_and_what_was_computed_is_there_when_the_picture_fails(
    tiny, text, tmp_path, monkeypatch, capsys
):
    odd = tmp_path / "a $x_{ 50% \\z\n"
    shutil.copytree(tiny, odd / "$m_{")
    shutil.copytree(text, odd / "$c%_")
    for name, other in (("aaa_Latn", "$l_{"), ("bbb_Latn", "b\n%s")):
        (odd / "$c%_" / f"{name}.txt").rename(odd / "$c%_" / f"{other}.txt")
    config = Config(model=str(odd / "$m_{"), corpus=str(odd / "$c%_"), batch_tokens=256)
    measure(config, Run(odd / "run"))
    assert (odd / "run/ilo.png").read_bytes().startswith(b"\x89PNG")
    assert {row["language"] for row in rows(odd / "run")} >= {"$l_{", "b\n%s"}
    assert json.loads((odd / "run/config.json").read_text())["config"] == asdict(config)
    monkeypatch.setattr(Figure, "savefig", Mock(side_effect=OSError("disk full")))
    capsys.readouterr()
    with pytest.raises(OSError, match=r"^cannot write .*ilo.png: disk full$"):
        measure(config, Run(tmp_path / "full"))
    assert {p.name for p in (tmp_path / "full").iterdir()} >= {"scores.csv", "config.json"}
    assert "gaussian" in capsys.readouterr().out


def test_a_second_run_uses_the_stored_states(config, tmp_path, capsys):
    first = measure(config, Run(tmp_path))
    assert "they are in" in capsys.readouterr().out
    again = measure(config, Run(tmp_path))
    assert "using the states stored in" in capsys.readouterr().out
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["ran_on"]["computed"][0]["tokens"] > 0
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prefix", "query: "),
        pytest.param("sentences", 10, marks=pytest.mark.slow),
        pytest.param("languages", "eng_Latn,aaa_Latn,bbb_Latn,ccc_Latn", marks=pytest.mark.slow),
    ],
)
def test_other_states_are_not_mixed_up(config, tmp_path, field, value):
    measure(config, Run(tmp_path))
    setattr(config, field, value)
    measure(config, Run(tmp_path))
    assert len([p for p in (tmp_path / "states").iterdir() if p.is_dir()]) == 2


@pytest.mark.parametrize("field", ["tokens", "special"])
def test_states_of_other_token_ids_are_not_used(config, tmp_path, monkeypatch, field):
    """The same model, corpus and settings; one id, or what the tokenizer said of one, is other."""
    measure(config, Run(tmp_path))

    def others(*given: Any, **settings: Any) -> list[Sentences]:
        found = token_ids(*given, **settings)
        getattr(found[2], field)[5] ^= 1
        return found

    monkeypatch.setattr(states, "token_ids", others)
    again = measure(config, Run(tmp_path))
    assert len([p for p in (tmp_path / "states").iterdir() if p.is_dir()]) == 2
    record = json.loads((tmp_path / "config.json").read_text())
    assert len(record["ran_on"]["computed"]) == 1
    monkeypatch.setattr(states, "token_ids", token_ids)
    monkeypatch.setattr(states, "FORWARD", FORWARD._replace(number=-1))
    first = measure(config, Run(tmp_path))
    assert len([p for p in (tmp_path / "states").iterdir() if p.is_dir()]) == 3
    assert (first.gaussian == again.gaussian).all() == (field == "special")


def test_a_torn_chunk_is_computed_again(config, tmp_path, capsys):
    first = measure(config, Run(tmp_path))
    chunks = [p for p in tmp_path.glob("states/*/residual_mean/c/1/2/**/*") if p.is_file()]
    whole = bytearray(chunks[0].read_bytes())
    whole[9] ^= 1
    chunks[0].write_bytes(whole)
    capsys.readouterr()
    again = measure(config, Run(tmp_path))
    assert "computing ccc_Latn again: " in capsys.readouterr().out
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unusable_stored_states_are_named_and_not_scored(config, tmp_path):
    measure(config, Run(tmp_path))
    (tmp_path / "scores.csv").write_text("earlier")
    (folder,) = [p for p in (tmp_path / "states").iterdir() if p.is_dir()]
    array = zarr.open_array(folder / "residual_mean", mode="r+")
    array[1, 2, 3, 4] = np.nan
    message = "hidden state 1 of ccc_Latn sentence 4 is not finite"
    with pytest.raises(ValueError, match=message):
        measure(config, Run(tmp_path))
    assert (tmp_path / "scores.csv").read_text() == "earlier"


@pytest.mark.slow
def test_command_line_contract_and_sigkill(config, tmp_path):
    """Killed while it writes states, started again: the same scores as never killed."""
    flags = [
        f"--config.model={config.model}",
        f"--config.corpus={config.corpus}",
        "--config.sentences=11",
        "--config.batch_tokens=256",
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    slow = "import time; from ilo_jax.activations.store import Store; write = Store.write\n"
    slow += "def wait(*a): write(*a); time.sleep(60)\n"
    slow += "Store.write = wait\n"
    slow += "import runpy, sys; sys.argv = ['experiments.ilo', *sys.argv[1:]]\n"
    slow += "runpy.run_module('experiments.ilo', run_name='__main__', alter_sys=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *flags, f"--workdir={killed}"], cwd=ROOT
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("states/*/complete/c/*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    assert list(killed.glob("states/*/complete/c/*"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "scores.csv").exists()
    for workdir in (killed, whole):
        done = subprocess.run(
            command(*flags, f"--workdir={workdir}"), cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "gaussian" in done.stdout
    assert (killed / "scores.csv").read_text() == (whole / "scores.csv").read_text()
    assert len(rows(whole)) == 3 * 6


def without(folder: Path, code: str) -> Path:
    (folder / f"{code}.txt").unlink()
    return folder


BAD_CONFIGS = [
    ({"k": 0}, "k must be"),
    ({"min_languages": 6}, "min_languages must be"),
    ({"k": 72}, "k must be"),
    ({"distance": "dot"}, "distance must be"),
    ({"precision": "rough"}, "precision must be"),
    ({"dtype": "float16"}, "dtype must be float32 or bfloat16, got 'float16'"),
    ({"stored_dtype": "int8"}, "stored_dtype must be float32 or bfloat16, got 'int8'"),
    ({"model_parallel": 9}, "model_parallel must divide the number of devices, 8, .*; got 9"),
    ({"corpus": ""}, "corpus must be a folder, a table, a prepared dataset or sample, got ''"),
    ({"model": " "}, "model must be a Hugging Face folder, a hub id or sample, got ' '"),
    ({"k": -3}, r"^k must be at least 1, got -3$"),
    ({"sentences": 1}, r"sentences must be 0 or 2 or more, got 1"),
    ({"pooling": "tokens"}, "pooling must be one of mean, content, last, max, got 'tokens'"),
    ({"states": "/proc/states"}, "/proc/states"),
    ({"seed": 2**63}, r"seed must be below 2\^63, got 9223372036854775808"),
    ({"sentences": -1, "draws": 0}, "sentences must be at least 0, got -1; draws must be"),
    ({"sentences": 13}, "12"),
    ({"languages": "eng_Latn,zzz_Latn,deu_Latn"}, "zzz_Latn"),
    ({"languages": "eng_Latn"}, "languages"),
    ({"model": "no-such-folder"}, "model must be a folder or a hub id owner/name"),
    ({"corpus": "no-such-corpus"}, "no-such-corpus"),
    ({"prefix": "p" * 80}, "a sentence must have 1 to 96 tokens, the positions of the model"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS, ids=lambda v: str(v)[:30])
def test_bad_settings_are_refused_and_earlier_results_stand(config, tmp_path, change, message):
    (tmp_path / "scores.csv").write_text("earlier")
    for field, value in change.items():
        setattr(config, field, value)
    with pytest.raises((ValueError, OSError), match=message):
        measure(config, Run(tmp_path))
    assert (tmp_path / "scores.csv").read_text() == "earlier"


def poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (poison, "NaN or infinite weights in .*encoder.layer.1.output.dense.weight"),
        (truncate, "model.safetensors is truncated or not safetensors"),
        (pickle_only, "pytorch_model.bin may run code when opened and is not read: convert it"),
    ],
)
def test_damaged_models_are_refused(
    config: Config, tiny: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    config.model = str(folder)
    with pytest.raises((ValueError, OSError), match=message):
        measure(config, Run(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("scores.csv"))


def test_a_full_disk_is_told_and_nothing_is_half_written(config, tmp_path):
    """A limit on file size stands for the disk: the first chunk does not fit."""
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\n"
    limited += "sys.argv = ['experiments.ilo', *sys.argv[1:]]\n"
    limited += "runpy.run_module('experiments.ilo', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            limited,
            f"--config.model={config.model}",
            f"--config.corpus={config.corpus}",
            f"--workdir={tmp_path}/run",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run/scores.csv").exists()
    measure(config, Run(tmp_path / "run"))
    assert len(rows(tmp_path / "run")) == 18
