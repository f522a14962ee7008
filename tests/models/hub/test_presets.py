"""Presets of every family: read by us as asked for, and by transformers into the same weights."""

import json
import math
import re

import jax.numpy as jnp
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from ilo_jax.models import parameters
from ilo_jax.models.hub.families import FAMILIES, family_of, read_config
from ilo_jax.models.hub.placement import by_tensor, sources
from ilo_jax.models.hub.presets import Sizes, preset, read_settings

SIZES = Sizes(dim=24, layers=2, heads=3, vocab=40, positions=32, tied=True)
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_preset_has_the_sizes_that_are_asked_for(family):
    config = read_config(preset(family, SIZES, TOKENS))
    assert (config.dim, config.layers, config.vocab) == (24, 2, 40)
    attention, mlp = config.blocks[0].attention, config.blocks[0].mlp
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (3, 3, 8)
    assert attention.scale == pytest.approx(8**-0.5)
    assert mlp.dim == (64 if mlp.gated else 96)
    assert config.max_positions in (32, None)
    assert config.head.kind == "tied"
    assert not config.dropout.rates


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_transformers_makes_of_a_preset_a_model_of_the_same_weights(family):
    raw = preset(family, SIZES, TOKENS)
    config = read_config(raw)
    shapes = parameters.shapes(parameters.abstract(config, dtype=jnp.float32))
    parts = by_tensor(sources(family_of(raw), config, {p: s.shape for p, s in shapes.items()}))
    auto = AutoModelForCausalLM if config.causal else AutoModelForMaskedLM
    settings = {name: value for name, value in raw.items() if name != "model_type"}
    with torch.device("meta"):
        theirs = auto.from_config(AutoConfig.for_model(family, **settings))
    assert type(theirs).__name__ == raw["architectures"][0]
    assert set(parts) <= set(theirs.state_dict())
    size = sum(weight.numel() for weight in theirs.parameters())
    assert size == sum(math.prod(like.shape) for like in shapes.values())


def test_other_sizes_are_told_by_the_keys_of_the_family():
    sizes = SIZES._replace(kv_heads=1, mlp_dim=50, tied=False)
    raw = preset("llama", sizes, TOKENS)
    assert raw["num_key_value_heads"] == 1
    assert raw["intermediate_size"] == 50
    assert raw["tie_word_embeddings"] is False
    assert preset("gpt2", SIZES._replace(mlp_dim=50), TOKENS)["n_inner"] == 50


def test_a_token_that_a_tokenizer_lacks_is_null_rather_than_one_of_a_larger_vocabulary():
    raw = preset("llama", SIZES, {"eos_token_id": 2, "mask_token_id": 3})
    assert (raw["bos_token_id"], raw["eos_token_id"], raw["pad_token_id"]) == (None, 2, None)
    assert raw["mask_token_id"] == 3


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("t5", {}, "the family must be one of bert, bloom, .*, xlm-roberta, got 't5'"),
        ("llama", {"dim": 25}, "must have a dim that heads, 3, divide, not 25"),
        ("llama", {"layers": 0, "heads": 0}, "sizes of at least 1, not layers 0, .* not heads 0"),
        ("llama", {"kv_heads": 2}, r"heads \(3\) must be a multiple of kv_heads, 2"),
        ("gpt2", {"kv_heads": 1}, "must have as many kv_heads as heads, 3, not 1"),
        ("bloom", {"mlp_dim": 50}, "must have an mlp_dim of four times dim, 96, not 50"),
    ],
)
def test_sizes_that_a_family_cannot_have_are_refused(family, changes, message):
    with pytest.raises(ValueError, match=message):
        preset(family, SIZES._replace(**changes), TOKENS)


def test_a_family_that_counts_positions_from_the_padding_token_needs_one():
    with pytest.raises(ValueError, match="a model of the family roberta must have a tokenizer wi"):
        preset("roberta", SIZES, {"eos_token_id": 2})
    raw = preset("roberta", SIZES, TOKENS | {"pad_token_id": 3})
    assert raw["max_position_embeddings"] == 36


def test_a_config_of_ones_own_takes_the_tokens_of_the_tokenizer(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(preset("llama", SIZES, TOKENS)))
    raw = read_settings(file, vocab=40, tokens={"eos_token_id": 7})
    assert (raw["bos_token_id"], raw["eos_token_id"]) == (1, 7)
    with pytest.raises(ValueError, match=r"must have the tokenizer's 41 tokens at least, got 40"):
        read_settings(file, vocab=41, tokens={})
    file.write_text("[]")
    with pytest.raises(ValueError, match=re.escape(str(file))):
        read_settings(file, vocab=40, tokens={})
