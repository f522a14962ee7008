import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from transformers.models.auto import modeling_auto

from ilo_jax.models import parameters
from ilo_jax.models.hub.families import FAMILIES, family_of, read_config
from ilo_jax.models.hub.families.facts import Facts
from ilo_jax.models.hub.families.family import Family, Place, places
from ilo_jax.models.hub.families.reading import REQUIRED
from ilo_jax.models.hub.families.rotary import Rotary
from ilo_jax.models.hub.placement import LEAVES
from tests.models.hub.families.rows import GATES, GELUS, RAW, SMALLEST, TANH

RELEASED = json.loads((Path(__file__).parents[2] / "released.json").read_text())
ROWS = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
FIELDS = {field.name: field for kind in (Facts, Rotary) for field in dataclasses.fields(kind)}
NEEDED = {
    name
    for name, field in FIELDS.items()
    if field.default is field.default_factory is dataclasses.MISSING
} - {"rotary"}


def facts_of(family: Family) -> list[str]:
    """Return the facts that the keys of a family become."""
    return [fact for key in family.keys.values() for fact in key.facts.split()]


def test_places_share_nothing():
    assert places({"norm": "model.norm"}) == {"norm": Place("model.norm", "", inputs_first=False)}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_architectures_are_called_as_transformers_calls_them(model_type):
    family = FAMILIES[model_type]
    with_head = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if family.facts.get("causal", True)
        else modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    assert family.backbone == modeling_auto.MODEL_MAPPING_NAMES[model_type]
    assert family.language_model == with_head[model_type]


@ROWS
def test_every_fact_is_one_of_the_vocabulary(family):
    assert set(facts_of(family)) | set(family.facts) <= set(FIELDS)


@ROWS
def test_every_needed_fact_is_given(family):
    assert set(facts_of(family)) | set(family.facts) >= NEEDED


@ROWS
def test_every_fact_is_given_once(family):
    facts = facts_of(family)
    assert len(facts) == len(set(facts))
    assert not set(facts) & set(family.facts)


@ROWS
def test_every_name_is_that_of_one_key(family):
    names = [name for own, key in family.keys.items() for name in (own, *key.also)]
    assert len(names) == len(set(names))


@ROWS
def test_defaults_are_accepted_values(family):
    for name, key in family.keys.items():
        if key.default is not REQUIRED and key.default is not None and key.default != {}:
            assert key.problem(key.default) is None, name


@ROWS
def test_only_heads_stand_outside_the_prefix(family):
    outside = {
        ours for ours, place in family.names.items() if not place.module.startswith(family.prefix)
    }
    assert all(ours.startswith("head") for ours in outside)
    assert all(place.module.count("*") == ours.count("*") for ours, place in family.names.items())


EXAMPLES = pytest.mark.parametrize(
    "name", {raw["model_type"]: name for name, raw in RELEASED.items()}.values()
)


def tensors_of(name: str) -> dict[str, list[Place]]:
    """Return the places that share each tensor of a released model's embedding, block and head."""
    family, config = family_of(RELEASED[name]), read_config(RELEASED[name])
    config = dataclasses.replace(config, blocks=config.blocks[:1])
    tensors: dict[str, list[Place]] = {}
    for path in parameters.shapes(parameters.abstract(config, dtype=jnp.float32)):
        module, _, leaf = path.rpartition("/")
        place = family.names[module.replace("layers/0", "layers/*")]
        tensor = f"{place.module.replace('*', '0')}.{LEAVES[leaf]}"
        tensors.setdefault(tensor, []).append(place)
    return tensors


@EXAMPLES
def test_no_tensor_of_ours_is_ignored(name):
    family = family_of(RELEASED[name])
    for tensor in tensors_of(name):
        for spelling in (tensor, tensor.removeprefix(family.prefix)):
            assert not [p for p in family.ignored if re.fullmatch(p, spelling)], tensor


@EXAMPLES
def test_only_fused_modules_share_a_tensor(name):
    for tensor, shared in tensors_of(name).items():
        (fused,) = {place.fused for place in shared}
        assert (len(shared) > 1) == (fused != ""), tensor


# Which family


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_family_by_the_model_type(model_type):
    assert family_of({"model_type": model_type}) is FAMILIES[model_type]


@pytest.mark.parametrize(
    ("raw", "got"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"model_type": "LLAMA"}, "'LLAMA'"),
        ({}, "None"),
        ({"model_type": 3}, "3"),
        ({"model_type": ["llama"]}, r"['llama']"),
    ],
)
def test_unknown_model_type_is_refused(raw, got):
    message = f"model_type must be one of {sorted(FAMILIES)}, got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        family_of(raw)


@pytest.mark.parametrize("model_type", ["mamba", None, *sorted(set(FAMILIES) - {"phi3"})])
def test_remote_code_is_refused(model_type):
    raw = {"model_type": model_type, "auto_map": {"AutoModel": "modeling.Mine"}}
    message = "config.json has auto_map: its model needs remote code, which is never run"
    with pytest.raises(ValueError, match=f"^{message}$"):
        read_config(raw)


def test_remote_code_of_phi3_is_left_aside():
    raw = RELEASED["microsoft/Phi-3-mini-4k-instruct"]
    assert raw["auto_map"]
    assert read_config(raw) == read_config({k: v for k, v in raw.items() if k != "auto_map"})


# What is refused in any family


def problems(config: dict) -> list[str]:
    """Return the lines that refuse a config.json."""
    with pytest.raises(
        ValueError, match=rf"^cannot read config.json of model_type '{config['model_type']}':\n"
    ) as error:
        read_config(config)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_smallest_configs_are_of_every_family_and_what_it_requires():
    required = {
        model_type: {name for name, key in family.keys.items() if key.default is REQUIRED}
        for model_type, family in FAMILIES.items()
    }
    assert {model_type: set(raw) for model_type, raw in SMALLEST.items()} == required


@pytest.mark.parametrize(
    ("model_type", "name"), [(m, name) for m in SMALLEST for name in SMALLEST[m]]
)
def test_missing_key_is_refused(model_type, name):
    config = {k: v for k, v in RAW[model_type].items() if k != name}
    assert problems(config) == [f"{name}: missing"]


@pytest.mark.parametrize(
    ("model_type", "name"),
    # Where it is needed, null is as many as there are heads.
    [(m, name) for m in SMALLEST for name in SMALLEST[m] if name != "num_key_value_heads"],
)
def test_null_is_refused_where_a_key_is_needed(model_type, name):
    assert problems(RAW[model_type] | {name: None}) == [f"{name}: missing"]


@pytest.mark.parametrize(
    ("model_type", "name"), [(m, name) for m in RAW for name in FAMILIES[m].keys]
)
def test_wrong_type_is_refused(model_type, name):
    config = RAW[model_type] | {name: b"odd"}
    config = {k: v for k, v in config.items() if k not in FAMILIES[model_type].keys[name].also}
    (problem,) = problems(config)
    assert re.fullmatch(rf"{name}: must be [\w ]+, got b'odd'", problem)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        *((model_type, "alpha_gate") for model_type in RAW),
        # One that others know.
        *((m, "sliding_window") for m in ("bert", "roberta", "xlm-roberta", "distilbert")),
    ],
)
def test_unknown_key_is_refused(model_type, name):
    assert problems(RAW[model_type] | {name: 16}) == [f"{name}: unknown key"]


GATED = """cohere cohere2 gemma gemma2 gemma3_text llama mistral olmo2 phi3 qwen2 qwen3""".split()

UNSUPPORTED = (
    dict.fromkeys(["bert", "roberta", "xlm-roberta"], ("is_decoder", True, [False]))
    | dict.fromkeys(["gpt2", "opt", "xglm"], ("activation_function", "swish", GELUS))
    | dict.fromkeys(["gemma2", "gemma3_text"], ("hidden_activation", "relu", GATES))
    | dict.fromkeys(
        ["cohere", "cohere2", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"],
        ("hidden_act", "relu", GATES),
    )
    | {
        "bloom": ("apply_residual_connection_post_layernorm", True, [False]),
        "distilbert": ("activation", "swish", GELUS),
        "gemma": ("hidden_activation", "gelu", [TANH]),
        "gpt_neox": ("hidden_act", "swish", GELUS),
    }
)


@pytest.mark.parametrize("model_type", RAW)
def test_all_offenders_are_in_one_message(model_type):
    name, value, allowed = UNSUPPORTED[model_type]
    vocabulary, width, *_ = SMALLEST[model_type]
    config = RAW[model_type] | {"zeta": 1, "alpha": 2, width: "wide", name: value}
    del config[vocabulary]
    assert problems(config) == [
        "alpha: unknown key",
        "zeta: unknown key",
        "vocab_size: missing",
        f"{width}: must be int, got 'wide'",
        f"{name}: must be one of {allowed}, got {value!r}",
    ]


# Several names of one key


ALSO = pytest.mark.parametrize(
    ("model_type", "name", "other"),
    [
        ("bloom", "hidden_size", "n_embed"),
        ("bloom", "n_layer", "num_hidden_layers"),
        ("bloom", "n_head", "num_attention_heads"),
        ("distilbert", "dim", "hidden_size"),
        ("distilbert", "n_layers", "num_hidden_layers"),
        ("distilbert", "n_heads", "num_attention_heads"),
        ("gpt2", "n_embd", "hidden_size"),
        ("gpt2", "n_layer", "num_hidden_layers"),
        ("gpt2", "n_head", "num_attention_heads"),
        ("gpt2", "n_positions", "n_ctx"),
        ("gpt2", "n_positions", "max_position_embeddings"),
        ("xglm", "d_model", "hidden_size"),
        ("xglm", "num_layers", "num_hidden_layers"),
        ("xglm", "attention_heads", "num_attention_heads"),
    ],
)


@ALSO
def test_other_names_of_a_key(model_type, name, other):
    config = dict(RAW[model_type])
    config[other] = config.pop(name)
    assert read_config(config) == read_config(RAW[model_type])


@ALSO
def test_names_that_disagree_are_refused(model_type, name, other):
    value = RAW[model_type][name]
    problem = f"{name}: its names disagree: {name} is {value} and {other} is 7"
    assert problems(RAW[model_type] | {other: 7}) == [problem]


# What matters in training only


@pytest.mark.parametrize("model_type", RAW)
def test_spread_of_initial_weights_is_read(model_type):
    name = "init_std" if model_type in {"opt", "xglm"} else "initializer_range"
    assert read_config(RAW[model_type]).init.std == 0.02
    assert read_config(RAW[model_type] | {name: 0.5}).init.std == 0.5
    assert read_config(RAW[model_type]).init.by_depth == (model_type == "gpt2")


@pytest.mark.parametrize(
    ("model_types", "name", "places"),
    [
        (GATED, "attention_dropout", ["attention"]),
        (["phi3"], "embd_pdrop", []),
        (["phi3"], "resid_pdrop", ["residual"]),
        (["gpt2"], "embd_pdrop", ["embedding"]),
        (["gpt2"], "attn_pdrop", ["attention"]),
        (["gpt2"], "resid_pdrop", ["residual"]),
        (["bloom"], "hidden_dropout", ["residual"]),
        (["gpt_neox"], "hidden_dropout", ["embedding", "residual"]),
        (["bloom", "gpt_neox", "opt", "xglm", "distilbert"], "attention_dropout", ["attention"]),
        (["opt"], "dropout", ["residual"]),
        (["xglm"], "dropout", ["embedding", "residual"]),
        (["distilbert"], "dropout", ["embedding", "mlp_out"]),
        (["xglm"], "activation_dropout", ["neurons"]),
        (["opt", "xglm"], "layerdrop", ["blocks"]),
        (["bert", "roberta", "xlm-roberta"], "attention_probs_dropout_prob", ["attention"]),
        (["bert", "roberta", "xlm-roberta"], "hidden_dropout_prob", ["embedding", "residual"]),
    ],
)
def test_dropout_is_read_by_its_place(model_types, name, places):
    for model_type in model_types:
        without, dropped = (
            read_config(RAW[model_type] | {name: rate}).dropout for rate in (0, 0.3)
        )
        assert not set(places) & set(without.rates), model_type
        assert dropped.rates == without.rates | dict.fromkeys(places, 0.3), model_type


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1])
def test_dropout_that_leaves_nothing_is_refused(rate):
    with pytest.raises(ValueError, match=rf"^dropout must be in \[0, 1\), got attention {rate}"):
        read_config(RAW["llama"] | {"attention_dropout": rate})


# What would change what is computed


@pytest.mark.parametrize("model_type", RAW)
def test_an_encoder_and_decoder_is_refused(model_type):
    assert read_config(RAW[model_type] | {"is_encoder_decoder": False})
    problem = "is_encoder_decoder: must be one of [False], got True"
    assert problems(RAW[model_type] | {"is_encoder_decoder": True}) == [problem]


def test_positions_of_several_kinds_are_refused():
    problem = "use_mrope: must be one of [False], got True"
    assert problems(RAW["qwen2"] | {"use_mrope": True}) == [problem]
