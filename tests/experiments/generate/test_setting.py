import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.generate.config import Config
from experiments.generate.setting import generation_key, prepare


@pytest.fixture
def config(decoder: Path, tmp_path: Path) -> Config:
    (tmp_path / "asked.txt").write_text("ab\ncd")
    edits = [{"site": "neurons", "layer": 0, "kind": "zero", "units": [1]}]
    (tmp_path / "edits.json").write_text(json.dumps(edits))
    return Config(
        model=str(decoder),
        prompts=str(tmp_path / "asked.txt"),
        edits=str(tmp_path / "edits.json"),
        ends="<eos>",
        stops='["b"]',
    )


def test_all_that_a_generation_starts_from(config):
    setting = prepare(config)
    assert setting.prompts == ["ab", "cd"]
    letters = setting.folder.tokenizer.get_vocab()
    assert setting.ids == [[letters["a"], letters["b"]], [letters["c"], letters["d"]]]
    assert np.flatnonzero(setting.ends).tolist() == [0, 2]
    assert setting.stops[0, letters["b"]] == -1
    assert [edit.site for edit in setting.edits] == ["neurons"]


def test_the_key_covers_what_is_said_and_not_where_it_was_asked(config, tmp_path):
    key = generation_key(prepare(config))
    moved = shutil.copy(tmp_path / "asked.txt", tmp_path / "other.txt")
    assert generation_key(prepare(dataclasses.replace(config, prompts=str(moved)))) == key
    changes = {"seed": 1, "stops": "", "ends": "", "edits": "", "rows": 2, "max_tokens": 9}
    for name, value in changes.items():
        other = generation_key(prepare(dataclasses.replace(config, **{name: value})))
        assert {field for field in key if key[field] != other[field]} == {name}
    Path(moved).write_text("ab\nce")
    other = generation_key(prepare(dataclasses.replace(config, prompts=str(moved))))
    assert {field for field in key if key[field] != other[field]} == {"tokens"}


def test_an_edit_that_the_model_has_no_place_for_is_refused_before_its_weights_are_read(
    config, tmp_path
):
    (tmp_path / "edits.json").write_text('[{"site": "neurons", "layer": 3, "kind": "zero"}]')
    with pytest.raises(ValueError, match=r"must be at a site, layer and units of the model; got:"):
        prepare(config)


def test_an_encoder_is_refused(config, tiny):
    with pytest.raises(ValueError, match=r"needs a decoder with a head, got an encoder without"):
        prepare(dataclasses.replace(config, model=str(tiny)))
