import json
import re

import pytest

from experiments.pretrain.config import Config
from experiments.pretrain.setting import named_shares, raw_config
from ilo_jax.models.hub.families import read_config

TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def raw_of(**fields) -> dict:
    return raw_config(Config(dim=16, layers=2, heads=2, **fields), vocab=300, tokens=TOKENS)


def test_the_model_has_the_sizes_of_the_configuration():
    raw = raw_of(kv_heads=1, mlp_dim=40, row_length=64)
    config = read_config(raw)
    assert (config.dim, config.layers, config.vocab) == (16, 2, 300)
    assert config.max_positions == 64
    assert config.blocks[0].mlp.dim == 40
    assert config.blocks[0].attention.kv_heads == 1
    assert config.head.kind == "tied"
    assert raw["eos_token_id"] == 2
    assert read_config(raw_of(tied=False, positions=512)).max_positions == 512


def test_a_config_of_ones_own_is_taken_with_its_sizes(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(raw_of(positions=256)))
    config = Config(model=str(file), dim=99, row_length=64)
    assert read_config(raw_config(config, vocab=300, tokens={})).dim == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "t5"}, "model must be a config.json or one of bert, .*; got 't5'"),
        ({"model": "bert"}, r"must be a decoder .* objective=causal, got an encoder \(bert\)"),
        ({"objective": "masked"}, r"must be an encoder .* got a decoder \(llama\)"),
    ],
)
def test_a_model_that_is_not_of_the_objective_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        raw_of(**fields)


def test_rows_longer_than_the_positions_of_a_config_of_ones_own_are_refused(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(raw_of(row_length=64)))
    message = "row_length must be at most the model's 64 positions, got 65"
    with pytest.raises(ValueError, match=re.escape(message)):
        raw_config(Config(model=str(file), row_length=65), vocab=300, tokens=TOKENS)


def test_shares_are_read_by_name():
    assert named_shares("eng=2, deu = .5") == {"eng": 2.0, "deu": 0.5}
    with pytest.raises(ValueError, match="shares must be NAME=NUMBER,NAME=NUMBER; got 'eng'"):
        named_shares("eng")
    with pytest.raises(ValueError, match="shares must name each language once, got 'a=1,a=2'"):
        named_shares("a=1,a=2")
