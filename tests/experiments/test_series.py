"""Whether every checkpoint of a series is judged, and judged once."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments import judgements
from experiments.judgements import kept
from experiments.launch import Run
from experiments.series import Config, follow, steps_of

STEPS = (0, 4, 16)


@pytest.fixture(scope="module")
def config(decoder, text, tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("series")
    for step in STEPS:
        shutil.copytree(decoder, folder / f"step{step}")
        file = folder / f"step{step}" / "model.safetensors"
        weights = {name: (1 - step / 40) * array for name, array in load_file(file).items()}
        save_file(weights, file, {"format": "pt"})
    return Config(
        series=str(folder),
        corpus=str(text),
        languages="deu_Latn,eng_Latn,aaa_Latn",
        text=str(text),
        unit="line",
        held_out=0.2,
        k=3,
        min_languages=2,
    )


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("followed")
    follow(config, Run(folder))
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_every_checkpoint_is_in_every_table(workdir):
    languages = ["deu_Latn", "eng_Latn", "aaa_Latn"]
    found = [kept(file) for step in STEPS for file in workdir.glob(f"judged/step{step}-*.npz")]
    assert len(found) == len(STEPS)
    bits = rows(workdir / "bits.csv")
    places = [(str(step), language) for step in STEPS for language in languages]
    assert [(row["step"], row["language"]) for row in bits] == places
    wanted = np.concatenate([one.texts.bits_per_byte for one in found])
    np.testing.assert_allclose([float(row["bits_per_byte"]) for row in bits], wanted, rtol=1e-5)
    assert len(set(wanted.tolist())) == len(wanted)
    ilo, retrieval = rows(workdir / "ilo.csv"), rows(workdir / "retrieval.csv")
    assert len(ilo) == len(retrieval) == len(STEPS) * 4 * 3
    ways = np.stack([np.nanmean(found[1].retrieved, axis=axis) for axis in (2, 1)], axis=-1)
    shown = [(float(r["finding"]), float(r["found"])) for r in retrieval if r["step"] == "4"]
    np.testing.assert_allclose(shown, ways.reshape(-1, 2), rtol=1e-5)
    assert (workdir / "series.png").read_bytes()[1:4] == b"PNG"
    assert set(json.loads((workdir / "config.json").read_text())["key"]) == {"0", "4", "16"}


def test_references_are_of_the_languages_that_were_learnt(workdir):
    known = rows(workdir / "references.csv")
    assert {row["language"] for row in known} == {"deu_Latn", "eng_Latn", "aaa_Latn"}
    # Eleven letters by chance: a 5-gram model that has read them knows that much.
    assert all(0 < float(row["ngram"]) < np.log2(11) + 1 for row in known)
    assert all(0 < float(row["xz"]) < 8 for row in known)


def test_what_was_judged_is_not_judged_again(config, workdir, monkeypatch, capsys):
    before = {name: (workdir / name).read_bytes() for name in ("bits.csv", "ilo.csv")}
    monkeypatch.setattr(judgements, "judge", None)
    some = dataclasses.replace(config, steps="16, 0", text="")
    points = follow(some, Run(workdir))
    assert [point.step for point in points] == [0, 16]
    assert "step 16: " in capsys.readouterr().out
    assert rows(workdir / "references.csv") == []
    follow(config, Run(workdir))
    assert {name: (workdir / name).read_bytes() for name in before} == before


def test_checkpoints_of_another_model_are_refused(config, tmp_path):
    shutil.copytree(config.series, tmp_path / "series")
    file = tmp_path / "series/step4/config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"rms_norm_eps": 0.5}))
    with pytest.raises(ValueError, match=r"of one model; that of step 4 .* made otherwise"):
        follow(
            dataclasses.replace(config, series=str(tmp_path / "series")), Run(tmp_path / "followed")
        )


def test_steps_are_numbers():
    assert steps_of("") == []
    assert steps_of("8, 1,") == [8, 1]
    with pytest.raises(ValueError, match="whole numbers, separated by commas; got -3, x"):
        steps_of("1,-3,x")
