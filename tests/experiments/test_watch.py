import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import ilo
from experiments import watch as watching
from experiments.board import Board
from experiments.launch import Run
from experiments.settings import Source
from experiments.watch import Watch, read_slice
from ilo_jax.evaluation.held_out import judge
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh


@pytest.fixture(scope="module")
def source(decoder, text) -> Source:
    return Source(model=str(decoder), corpus=str(text), sentences=6, batch_tokens=512)


@pytest.fixture(scope="module")
def held_out(source, decoder):
    return read_slice(source, open_folder(decoder), make_mesh(), k=5, min_languages=3)


@pytest.fixture(scope="module")
def model(decoder):
    return loading.load(open_folder(decoder), mesh=make_mesh())


def test_ilo_is_what_the_main_job_gives(source, held_out, model, tmp_path):
    """Of the same model and sentences, with its references."""
    config = ilo.Config(**vars(source))
    wanted = ilo.measure(config, Run(tmp_path))
    found = judge(model, held_out, name="tiny").scores
    np.testing.assert_array_equal(found.ilo, wanted.ilo)
    np.testing.assert_array_equal(found.ceiling, wanted.ceiling)
    np.testing.assert_allclose(found.gaussian, wanted.gaussian, atol=0.02)


def test_what_is_judged_is_written_down_for_every_language_and_state(held_out, model, tmp_path):
    watch = Watch(tmp_path, held_out, Board(None), name="tiny", until=-1)
    watch(0, model)
    watch(10, model)
    languages = held_out.corpus.languages
    bits, scores = read(tmp_path / "bits.csv"), read(tmp_path / "ilo.csv")
    assert [row["step"] for row in bits] == ["0"] * len(languages) + ["10"] * len(languages)
    assert len(scores) == 2 * 4 * len(languages)
    found = judge(model, held_out, name="tiny")
    for row, bit in zip(bits, found.texts.bits_per_byte, strict=False):
        assert float(row["bits_per_byte"]) == pytest.approx(bit, rel=1e-8)
    for row in scores:
        at = int(row["state"]), languages.index(row["language"])
        assert float(row["ilo"]) == pytest.approx(found.scores.ilo[at], rel=1e-6)
        assert float(row["gaussian"]) == pytest.approx(found.scores.gaussian[at], rel=1e-6)


def test_states_that_ties_or_rounding_decide_are_said(held_out, model, tmp_path, monkeypatch):
    found, said = judge(model, held_out, name="tiny"), []
    uncertain = np.zeros_like(found.scores.uncertain)
    uncertain[2] = 3
    doubtful = found._replace(scores=found.scores._replace(uncertain=uncertain))
    monkeypatch.setattr(watching, "judge", lambda *_, **__: doubtful)
    monkeypatch.setattr(watching, "say", said.append)
    Watch(tmp_path, held_out, Board(None), name="tiny", until=-1)(0, model)
    assert (
        "; ties or rounding decide the scores at state 2, of whose points up to 50% are uncertain"
        in said[0]
    )


def read(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_a_language_that_is_not_there_is_named(source, decoder):
    asked = Source(**vars(source) | {"languages": "eng_Latn,xyz_Latn"})
    with pytest.raises(ValueError, match="xyz_Latn"):
        read_slice(asked, open_folder(decoder), make_mesh(), k=5, min_languages=3)


def test_settings_of_ilo_that_cannot_be_are_refused_before_the_model_is_read(source, decoder):
    with pytest.raises(ValueError, match=r"min_languages must be in \[1, 5\]"):
        read_slice(source, open_folder(decoder), make_mesh(), k=5, min_languages=6)


def test_how_much_is_computed_at_a_time_is_left_to_the_devices(source, decoder, monkeypatch):
    monkeypatch.setattr(watching, "compiled_slice", lambda *_, **given: given)
    asked = Source(**vars(source) | {"batch_tokens": 0})
    given: Any = read_slice(asked, open_folder(decoder), make_mesh(), k=5, min_languages=3)
    assert given["batch_tokens"] == 512
