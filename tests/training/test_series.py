"""A series as it is written: which steps, whole folders, an index, and nothing twice."""

import json
import shutil

import jax.numpy as jnp
import pytest
from flax import nnx

from ilo_jax.models import parameters
from ilo_jax.models.hub import saving
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.hub.presets import Sizes, preset
from ilo_jax.models.hub.series import read_series, weights_digest
from ilo_jax.training.series import Health, Series, kept_steps

RAW = preset("llama", Sizes(dim=8, layers=1, heads=1, vocab=10, positions=8), {})
KEY = {"seed": 0}
HEALTH = Health(2.5, {"eng": 1.25, "deu": 1.5})


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (1, 0, [0, 1]),
        (8, 0, [0, 1, 2, 4, 8]),
        (9, 0, [0, 1, 2, 4, 8, 9]),
        (9, 3, [0, 1, 2, 3, 4, 6, 8, 9]),
    ],
)
def test_powers_of_two_are_kept_and_regular_steps_and_both_ends(steps, every, expected):
    assert sorted(kept_steps(steps, every=every)) == expected


@pytest.fixture
def beside(tmp_path):
    """Return a folder with something of a tokenizer."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}")
    return tmp_path / "tokenizer"


@pytest.fixture
def series(tmp_path, beside) -> Series:
    return Series(tmp_path / "series", KEY, raw=RAW, beside=beside, measure="bits_per_byte")


@pytest.fixture(scope="module")
def model():
    return parameters.build(read_config(RAW), dtype=jnp.float32, rngs=nnx.Rngs(0))


def measured() -> Health:
    return HEALTH


def unmeasured() -> Health:
    raise AssertionError("it is measured already")


def test_a_checkpoint_is_a_folder_and_an_entry_of_the_index(series, model):
    for step in (2, 1):
        assert series.keep(model, step, measured) == HEALTH
    folders = [series.folder / name for name in ("step0000001", "step0000002")]
    index = json.loads((series.folder / "series.json").read_text())["checkpoints"]
    assert index == [
        {
            "step": step,
            "folder": folder.name,
            "loss": 2.5,
            "bits_per_byte": {"eng": 1.25, "deu": 1.5},
            "weights": weights_digest(folder),
        }
        for step, folder in zip((1, 2), folders, strict=True)
    ]
    assert (folders[0] / "tokenizer.json").read_text() == "{}"
    assert open_folder(folders[0]).config == model.config
    found = read_series(str(series.folder), steps=[1]).checkpoints[0]
    assert (found.step, found.loss, found.weights) == (1, 2.5, index[0]["weights"])


def test_what_is_kept_already_stays_and_is_not_measured_again(series, model, tmp_path, beside):
    series.keep(model, 1, measured)
    before = {file: file.stat().st_mtime_ns for file in series.folder.rglob("*")}
    again = Series(series.folder, KEY, raw=RAW, beside=beside, measure="bits_per_byte")
    assert again.keep(model, 1, unmeasured) == HEALTH
    assert {file: file.stat().st_mtime_ns for file in series.folder.rglob("*")} == before


def test_killed_between_folder_and_index_it_is_only_entered(series, model, monkeypatch):
    saving.save(model, series.folder / "step0000001", raw=RAW)
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save", unmeasured)
        series.keep(model, 1, measured)
    assert read_series(str(series.folder)).checkpoints[0].step == 1


def test_the_series_of_another_training_is_refused(series, model, beside):
    series.keep(model, 1, measured)
    shutil.rmtree(series.folder / "step0000001")
    with pytest.raises(ValueError, match=r"is of another training: seed differ \(seed was 0, is 1"):
        Series(series.folder, {"seed": 1}, raw=RAW, beside=beside, measure="bits_per_byte")
