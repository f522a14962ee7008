import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.finetune import setting as module
from experiments.finetune.config import Config
from experiments.finetune.setting import (
    describe,
    kept_states_key,
    prepare,
    training_key,
)
from ilo_jax.recipes import Recipe
from ilo_jax.sharding import make_mesh
from ilo_jax.training.order import Order


@pytest.fixture(scope="module")
def config(learning) -> Config:
    return learning


def test_a_text_too_short_for_a_step_is_refused(config, tmp_path):
    (tmp_path / "one.txt").write_text("one line only\n")
    with pytest.raises(ValueError, match=r"the text must fill the 16 rows of a step, got 1 of 128"):
        prepare(dataclasses.replace(config, text=str(tmp_path / "one.txt")))


def test_an_empty_text_is_refused(config, tmp_path):
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(ValueError, match=r"must hold a paragraph, got\n  none in"):
        prepare(dataclasses.replace(config, text=str(tmp_path / "none.txt")))


def test_examples_that_cannot_be_learnt_are_named_with_their_file(config, tmp_path):
    file = tmp_path / "some.jsonl"
    lines = ["ab", "<eos>", "cd"]
    file.write_text("".join(f'{{"text": "{text}"}}\n' for text in lines))
    with pytest.raises(ValueError, match=f"got:\n  {re.escape(str(file))} example 2: '<eos>'$"):
        prepare(dataclasses.replace(config, text=str(file)))
    file.write_text('{"prompt": "a", "completion": "b"}\n' + '{"prompt": "a", "completion": "bc"}')
    message = f"must fit a row of 3 tokens; .*; got 4 tokens in {re.escape(str(file))} example 2$"
    with pytest.raises(ValueError, match=message):
        prepare(dataclasses.replace(config, text=str(file), row_length=3))


def test_an_encoder_is_refused(config, tiny):
    with pytest.raises(ValueError, match=r"a decoder with a head to be fine-tuned, got an encoder"):
        prepare(dataclasses.replace(config, model=str(tiny)))


def test_rows_that_do_not_divide_over_the_devices_are_refused_before_weights_are_read(config):
    with pytest.raises(ValueError, match=r"must be a multiple of 8; got 4"):
        prepare(dataclasses.replace(config, rows_at_once=4))


def test_rows_longer_than_the_model_has_positions_are_refused(config, tmp_path):
    (tmp_path / "long.txt").write_text("word " * 100_000)
    fields = {"text": str(tmp_path / "long.txt"), "row_length": 300}
    with pytest.raises(ValueError, match=r"1 to 256 tokens, .*; lower row_length to"):
        prepare(dataclasses.replace(config, **fields))


def test_a_text_is_packed_and_its_order_set_up(config):
    setting = prepare(dataclasses.replace(config, freeze="paper:2", seed=5))
    assert setting.order == Order(120, 2, 8, 5)
    assert setting.lowest == 2
    assert sum(setting.frozen.values()) == 2 * 9 + 2
    assert setting.text.planned.shape[0] == 120


BEARING = {
    "steps": 7,
    "rows": 8,
    "rows_at_once": 16,
    "row_length": 256,
    "learning_rate": 1e-3,
    "warmup": 3,
    "weight_decay": 0.5,
    "clip": 0.5,
    "seed": 1,
    "freeze": "paper:1",
    "dtype": "bfloat16",
    "remat": True,
    "fsdp": True,
}
NO_BEARING = {
    "evaluate": 3,
    "save": 3,
    "tensorboard": True,
    "corpus": "elsewhere",
    "languages": "eng_Latn",
    "sentences": 3,
    "frozen_states": "disk",
    "k": 7,
}


def test_the_key_holds_what_bears_on_the_weights_and_nothing_else(config):
    setting = prepare(config)
    key = training_key(config, setting)
    for name, value in BEARING.items():
        other = dataclasses.replace(config, **{name: value})
        assert training_key(other, setting) != key, name
    for name, value in NO_BEARING.items():
        other = dataclasses.replace(config, **{name: value})
        assert training_key(other, setting) == key, name
    fields = {field.name for field in dataclasses.fields(Config)}
    assert set(BEARING) | set(NO_BEARING) <= fields


def test_the_key_knows_the_text_and_the_model_by_what_they_hold(config, tmp_path):
    (tmp_path / "same.txt").write_text(Path(config.text).read_text())
    same = dataclasses.replace(config, text=str(tmp_path / "same.txt"))
    assert training_key(same, prepare(same)) == training_key(config, prepare(config))
    (tmp_path / "same.txt").write_text(Path(config.text).read_text() + "more\n")
    assert training_key(same, prepare(same)) != training_key(config, prepare(config))


def changed(array: np.ndarray) -> np.ndarray:
    """The same but for one entry."""
    other = array.copy()
    other[3] = not other[3] if other.dtype == bool else other[3] + 1
    return other


@pytest.mark.parametrize("key_of", [training_key, kept_states_key])
def test_keys_hold_the_tokens_what_they_are_for_and_which_share_a_row(config, key_of):
    setting = prepare(config)
    sentences, planned, _ = setting.text
    keys = [key_of(config, setting)]
    for field, array in sentences._asdict().items():
        other = sentences._replace(**{field: changed(array)})
        text = setting.text._replace(sentences=other)
        keys.append(key_of(config, setting._replace(text=text)))
    swapped = setting.text._replace(planned=planned[::-1])
    keys.append(key_of(config, setting._replace(text=swapped)))
    assert len({key["tokens"] for key in keys}) == len(keys) == 6
    assert len({str(sorted(key.items())) for key in keys}) == 6


@pytest.mark.parametrize(
    ("key_of", "names"), [(training_key, ("FORWARD", "TRAINING")), (kept_states_key, ("FORWARD",))]
)
def test_keys_hold_how_it_is_computed(config, monkeypatch, key_of, names):
    setting = prepare(config)
    key = key_of(config, setting)
    assert {*key["recipes"]} == {name.lower() for name in names}
    for name in names:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, Recipe(name.lower(), -1))
            assert key_of(config, setting) != key


def test_the_key_of_kept_states_holds_what_bears_on_them_and_nothing_else(config):
    setting = prepare(dataclasses.replace(config, freeze="paper:2"))
    key = kept_states_key(config, setting)
    less = prepare(dataclasses.replace(config, freeze="paper:1"))
    others = [
        kept_states_key(config, setting._replace(frozen=less.frozen)),
        kept_states_key(config, setting._replace(text=setting.text._replace(row_length=129))),
        kept_states_key(config, setting._replace(order=setting.order._replace(part_rows=16))),
        kept_states_key(config, setting._replace(mesh=make_mesh(data=4, model=2))),
        kept_states_key(dataclasses.replace(config, dtype="bfloat16"), setting),
    ]
    assert all(other != key for other in others)
    for fields in ({"learning_rate": 1.0}, {"steps": 7}, {"seed": 3}, {"remat": True}):
        assert kept_states_key(dataclasses.replace(config, **fields), setting) == key


def test_what_a_step_costs_is_said(config):
    setting = prepare(dataclasses.replace(config, freeze="paper:2"))
    without = describe(setting, cached=False, remat=False)
    kept = describe(setting, cached=True, remat=False)
    assert without.startswith("frozen: embedding, blocks 0 to 1, final norm")
    assert "15120 tokens in 120 rows of 128 (1.6% padding), an epoch is 8 steps" in without
    shares = [int(text.split("a step, ")[1].split("%")[0]) for text in (without, kept)]
    assert 0 < shares[1] < shares[0] < 100


@pytest.mark.parametrize(
    ("frozen_states", "freeze"), [("disk", "none"), ("memory", "paper:0"), ("disk", "layers/2/.*")]
)
def test_states_are_not_kept_where_no_first_block_is_frozen(config, frozen_states, freeze):
    message = (
        "^frozen_states must be empty where the first block trains, as with freeze="
        f"'{re.escape(freeze)}', got '{frozen_states}'; freeze=paper:1 would freeze it$"
    )
    with pytest.raises(ValueError, match=message):
        prepare(dataclasses.replace(config, frozen_states=frozen_states, freeze=freeze))
