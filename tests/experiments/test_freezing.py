import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import freezing as module
from experiments.finetune.setting import prepare
from experiments.freezing import Config, compare
from experiments.launch import Run
from ilo_jax.models.hub.folder import open_folder


@pytest.fixture(scope="module")
def config(decoder, paragraphs, text) -> Config:
    return Config(
        model=str(decoder),
        text=str(paragraphs),
        corpus=str(text),
        trained="deu_Latn",
        sentences=4,
        steps=6,
        rows=16,
        rows_at_once=8,
        row_length=128,
        learning_rate=3e-3,
        warmup=1,
        save=0,
        freeze="paper:2",
        frozen_states="memory",
    )


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("freezing")
    compare(config, Run(folder))
    return folder


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_all_arms_are_judged_alike(workdir, text):
    languages = sorted(file.stem for file in text.glob("*.txt"))
    arms = [("base", "0"), ("full", "0"), ("frozen", "0"), ("full", "1"), ("frozen", "1")]
    bits, scores = table(workdir / "bits.csv"), table(workdir / "ilo.csv")
    assert [(r["arm"], r["seed"], r["language"]) for r in bits] == [
        (*arm, language) for arm in arms for language in languages
    ]
    assert len(scores) == len(arms) * 4 * len(languages)
    assert {row["language"] for row in bits if row["trained"] == "1"} == {"deu_Latn"}
    base = {row["language"]: float(row["bits_per_byte"]) for row in bits[: len(languages)]}
    for row in bits:
        change = float(row["bits_per_byte"]) - base[row["language"]]
        assert float(row["change"]) == pytest.approx(change, abs=2e-5)
    assert all((workdir / name).read_bytes()[1:4] == b"PNG" for name in ("bits.png", "ilo.png"))
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["freeze"] == record["key"]["training"]["freeze"] == "paper:2"
    assert set(record["key"]) == {"training", "judgement"}


@pytest.mark.parametrize("kind", ["", "memory", "disk"])
def test_only_the_frozen_arm_keeps_states_and_all_seeds_share_them(
    config, decoder, tmp_path, monkeypatch, kind
):
    trained = []
    monkeypatch.setattr(module, "finetune", lambda config, run: trained.append(config))
    asked = dataclasses.replace(config, frozen_states=kind)
    for arm in module.arms(asked, Run(tmp_path), open_folder(decoder)):
        arm.train()
    shared = str(tmp_path / "frozen-states") if kind == "disk" else ""
    kept = [(own.freeze, own.frozen_states, own.frozen_folder) for own in trained]
    assert kept == [("none", "", ""), ("paper:2", kind, shared)] * 2
    for own in trained:
        prepare(own)


@pytest.mark.slow
def test_training_helps_and_the_whole_model_learns_most(workdir):
    """On text of the letters that it learnt, which the made-up languages share."""
    change = {
        arm: np.mean([float(r["change"]) for r in table(workdir / "bits.csv") if r["arm"] == arm])
        for arm in ("full", "frozen")
    }
    assert change["full"] < change["frozen"] < 0


@pytest.mark.slow
def test_frozen_layers_leave_their_states_as_they_were(workdir):
    """So their ILO, too: states 0 to 2 of the frozen arm are those of the base."""
    scores = table(workdir / "ilo.csv")
    of = {
        arm: {(r["state"], r["language"]): r["ilo"] for r in scores if r["arm"] == arm}
        for arm in ("base", "frozen", "full")
    }
    below = [key for key in of["base"] if int(key[0]) <= 2]
    assert all(of["frozen"][key] == of["base"][key] for key in below)
    assert any(of["full"][key] != of["base"][key] for key in below)


@pytest.mark.slow
def test_the_models_are_folders_that_differ_where_they_trained(workdir, decoder):
    before = load_file(decoder / "model.safetensors")
    for seed in (0, 1):
        frozen = load_file(workdir / f"frozen-{seed}/model/model.safetensors")
        full = load_file(workdir / f"full-{seed}/model/model.safetensors")
        kept = [name for name in before if np.array_equal(before[name], frozen[name])]
        assert all("layers.2." not in name for name in kept)
        assert len(kept) == len(before) - 9
        assert not any(np.array_equal(before[name], full[name]) for name in before)


@pytest.mark.slow
def test_started_again_it_trains_and_judges_nothing_twice(config, workdir, monkeypatch, capsys):
    before = (workdir / "ilo.csv").read_bytes(), (workdir / "bits.csv").read_bytes()
    monkeypatch.setattr(module, "judge", None)
    compare(dataclasses.replace(config, trained=""), Run(workdir))
    assert "(trained)" not in capsys.readouterr().out
    compare(config, Run(workdir))
    assert ((workdir / "ilo.csv").read_bytes(), (workdir / "bits.csv").read_bytes()) == before
    output = capsys.readouterr().out
    assert output.count("this training has ended already") == 4
    assert "deu_Latn (trained)" in output
    assert "mean of the others" in output


def test_told_to_stop_it_compares_nothing(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "finetune", lambda config, run: None)
    monkeypatch.setattr(module, "judged", lambda *_, name, within: f"{name} in {within.name}")
    (one,) = compare(config, Run(tmp_path))
    assert tuple(one) == ("base", 0, "base-0 in judged")
    assert not (tmp_path / "bits.csv").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"freeze": "none"}, "freeze must name what is frozen in the one arm, got none"),
        ({"freeze": "paper:3"}, r"blocks must be in \[0, 2\] to be frozen, got 3"),
        ({"trained": "xyz_Latn"}, "trained must be one of the languages judged, .*; got 'xyz_Latn"),
        ({"languages": "deu_Latn,xyz_Latn"}, "xyz_Latn"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_trained(config, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        compare(dataclasses.replace(config, **fields), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
