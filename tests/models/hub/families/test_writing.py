import dataclasses
import re

import pytest
from transformers import DistilBertConfig

from ilo_jax.models.hub.families import FAMILIES, read_config
from ilo_jax.models.hub.families.writing import config_of
from tests.models.hub.families.rows import RAW


def altered(raw, **embedding):
    """Return the model of a config.json with another embedding."""
    config = read_config(raw)
    return dataclasses.replace(config, embedding=dataclasses.replace(config.embedding, **embedding))


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_config_of_its_own_model_gains_the_dtype_only(raw):
    assert config_of(read_config(raw), raw, dtype="bfloat16") == raw | {"dtype": "bfloat16"}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_another_vocabulary_is_written_and_nothing_else(raw):
    wider = altered(raw, vocab=70)
    found = config_of(wider, raw, dtype="float32")
    assert found == raw | {"dtype": "float32", "vocab_size": 70}
    assert read_config(found) == wider


@pytest.mark.parametrize("kind", ["tied", "own"])
@pytest.mark.parametrize("raw", [r for r in RAW.values() if read_config(r).causal], ids=str)
def test_a_head_may_be_tied_or_not(raw, kind):
    config = read_config(raw)
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, kind=kind))
    assert read_config(config_of(config, raw, dtype="float32")) == config


@pytest.mark.parametrize("names", [None, "backbone", "language_model"])
@pytest.mark.parametrize("kind", ["tied", "own", "none"])
@pytest.mark.parametrize("model_type", RAW)
def test_a_head_comes_and_goes(model_type, kind, names):
    """Whatever the config.json that is given says of the head, or if it says nothing."""
    raw, family = RAW[model_type], FAMILIES[model_type]
    own = family.backbone if kind == "none" else family.language_model
    config = read_config(raw | {"architectures": [own]})
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, kind=kind))
    given = raw if names is None else raw | {"architectures": [getattr(family, names)]}
    found = config_of(config, given, dtype="float32")
    assert read_config(found) == config
    assert found.get("architectures", [own]) == [own]


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_tied_is_what_transformers_ties(tied):
    """Which has forgotten `tie_weights_`."""
    raw = RAW["distilbert"] | {"architectures": ["DistilBertForMaskedLM"], "tie_weights_": False}
    assert read_config(raw).head.kind == "tied"
    assert DistilBertConfig.from_dict(raw).tie_word_embeddings
    config = read_config(raw)
    config = dataclasses.replace(
        config, head=dataclasses.replace(config.head, kind="tied" if tied else "own")
    )
    found = config_of(config, raw, dtype="float32")
    assert DistilBertConfig.from_dict(found).tie_word_embeddings == tied
    assert read_config(found) == config


@pytest.mark.parametrize(
    ("model_type", "architecture", "backbone"),
    [("llama", "LlamaForCausalLM", "LlamaModel"), ("gpt2", "GPT2LMHeadModel", "GPT2Model")],
)
def test_a_model_without_its_head_is_called_a_backbone(model_type, architecture, backbone):
    raw = RAW[model_type] | {"architectures": [architecture]}
    config = dataclasses.replace(
        read_config(raw), head=read_config(raw | {"architectures": [backbone]}).head
    )
    assert config_of(config, raw, dtype="float32")["architectures"] == [backbone]


def test_keys_of_older_days_and_of_code_are_left_out():
    raw = RAW["phi3"] | {"torch_dtype": "float16", "auto_map": {"AutoModel": "mine.Mine"}}
    found = config_of(read_config(raw), raw, dtype="float32")
    assert found == RAW["phi3"] | {"dtype": "float32"}


def test_what_differs_otherwise_is_named():
    config = dataclasses.replace(altered(RAW["llama"], scale=2.0), final_norm=None)
    message = (
        "the model to be saved is not of the config.json that is given: they differ in "
        "embedding, final_norm"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        config_of(config, RAW["llama"], dtype="float32")


def test_tokens_that_a_new_vocabulary_has_not_got_are_refused():
    raw = RAW["llama"] | {"bos_token_id": 1, "eos_token_id": [2, 60], "pad_token_id": 63}
    message = (
        "config.json must name tokens of the model's vocabulary, below 50; got "
        "eos_token_id [2, 60], pad_token_id 63: give those of its tokenizer"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        config_of(altered(raw, vocab=50), raw, dtype="float32")
    assert config_of(altered(raw, vocab=64), raw, dtype="float32")["pad_token_id"] == 63
