import copy
import importlib
import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from ilo_jax.models.hub.families import FAMILIES, read_config
from ilo_jax.models.hub.families.family import INERT
from ilo_jax.models.hub.families.unread import (
    ABSENT,
    GENERATION,
    OF_OTHERS,
    ignoring,
    without_effect,
)
from tests.models.hub.families.rows import RAW
from tests.models.variants import VARIANTS, family, fresh

ANY_VALUE: dict[str, Any] = dict.fromkeys(sorted(OF_OTHERS), 7) | {
    "num_labels": 3,
    "temperature": 0.6,
    "top_p": 0.9,
    "do_sample": True,
    "num_beams": 4,
    "suppress_tokens": [3],
    "_model_name_or_path": "owner/name",
    "_commit_hash": "0",
    "_attn_implementation_internal": "eager",
    "clip_qkv": None,
}
FIRST = {family(variant): variant for variant in reversed(VARIANTS)}
EACH = pytest.mark.parametrize("model_type", FAMILIES)


def harmless(model_type: str) -> dict[str, Any]:
    """Return keys that no row has, those of other families at the value of their absence."""
    given = {**ABSENT, **ANY_VALUE}
    return {name: v for name, v in given.items() if name not in FAMILIES[model_type].known}


@EACH
def test_keys_without_effect_are_listed_and_change_nothing(model_type):
    raw, extra = RAW[model_type], harmless(model_type)
    assert len(extra) > 20
    assert without_effect(raw | extra, FAMILIES[model_type]) == sorted(extra)
    assert without_effect(raw, FAMILIES[model_type]) == []
    assert read_config(raw | extra) == read_config(raw)


@EACH
def test_keys_without_effect_change_nothing_in_transformers(model_type):
    model = fresh(FIRST[model_type])
    raw = model.config.to_dict() | harmless(model_type)
    config = transformers.AutoConfig.for_model(**copy.deepcopy(raw))
    changed = type(model)._from_config(config, attn_implementation="eager").eval()
    changed.load_state_dict(model.state_dict())
    tokens = torch.arange(2, 12)[None]
    with torch.no_grad():
        got, expected = (
            m(tokens, output_hidden_states=True).hidden_states for m in (changed, model)
        )
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


@EACH
def test_what_transformers_reads_of_keys_with_an_underscore_is_in_the_row(model_type):
    config = transformers.CONFIG_MAPPING[model_type]
    modeling = config.__module__.replace("configuration", "modeling")
    text = "".join(
        inspect.getsource(importlib.import_module(m)) for m in (config.__module__, modeling)
    )
    read = set(re.findall(r"config\.(_[a-z]\w+)", text)) - {"_attn_implementation"}
    read |= set(re.findall(r"(?:get|pop)\(\s*\"(_[a-z]\w+)\"", text))
    assert read <= FAMILIES[model_type].known


def test_all_that_transformers_takes_for_settings_of_generation_is_without_effect():
    params = transformers.GenerationConfig._get_default_generation_params()
    assert set(params) - INERT <= GENERATION


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("value", [None, False])
def test_causality_is_no_key_without_effect(model_type, value):
    """Without it, transformers lets a decoder see what comes after; null is without it, too."""
    assert read_config(RAW[model_type] | {"is_causal": True}) == read_config(RAW[model_type])
    with pytest.raises(ValueError, match=rf"is_causal: must be one of \[True\], got {value}$"):
        read_config(RAW[model_type] | {"is_causal": value})


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_mechanisms_of_other_families_are_refused_where_they_are_there(name):
    for model_type in {"opt", "llama"}:
        with pytest.raises(ValueError, match=rf"\n  {name}: "):
            read_config(RAW[model_type] | {name: 9})


@pytest.mark.parametrize("name", ["max_sequence_length", "max_seq_length", "max_seq_len"])
@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_other_names_of_the_longest_sentence_are_read_where_its_own_is_not_there(model_type, name):
    raw, row = RAW[model_type], FAMILIES[model_type]
    bare = {key: value for key, value in raw.items() if key != "max_position_embeddings"}
    assert read_config(bare | {name: 77}).max_positions == 77
    assert without_effect(bare | {name: 77}, row) == []
    # As in transformers; vicuna-7b-v1.5-16k has 4096 and 16384.
    assert read_config(raw | {name: 77}) == read_config(raw)
    assert without_effect(raw | {name: 77}, row) == [name]


def test_keys_of_rotary_positions_without_effect_are_listed_by_their_place():
    scaling = {"type": "yarn", "factor": 4.0, "attn_factor": 1.0, "finetuned": True}
    raw = RAW["llama"] | {"rope_scaling": scaling}
    listed = ["rope_scaling.attn_factor", "rope_scaling.finetuned"]
    assert without_effect(raw, FAMILIES["llama"]) == listed
    assert read_config(raw) == read_config(
        RAW["llama"] | {"rope_scaling": {"type": "yarn", "factor": 4.0}}
    )


def test_ignored_keys_are_left_out_at_any_depth():
    raw = RAW["llama"] | {"moon": 1, "rope_scaling": {"type": "linear", "factor": 2.0, "tide": 3}}
    left = ignoring(raw, ["moon", "tide"], FAMILIES["llama"])
    assert left == RAW["llama"] | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert ignoring(raw, [], FAMILIES["llama"]) == raw


def test_keys_that_are_read_or_absent_cannot_be_ignored():
    raw = RAW["llama"] | {"moon": 1, "rope_scaling": {"type": "linear", "factor": 2.0}}
    message = (
        "ignore_keys must name keys of config.json that are not read, got mooon (is not there), "
        "rope_scaling (is read), factor (is read)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ignoring(raw, ["rope_scaling", "moon", "mooon", "factor"], FAMILIES["llama"])
