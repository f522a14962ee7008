import itertools
import re

import pytest
from transformers import AutoConfig

from ilo_jax.models.config import DecoderConfig, EncoderConfig, Llama3Scaling, Rope
from ilo_jax.models.families import FAMILIES, family_of, read_config
from ilo_jax.models.hf import raw_config

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "rope_theta": 500,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "type_vocab_size": 3,
}
RAW = {"llama": LLAMA, "bert": BERT}
REQUIRED = """vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size
    max_position_embeddings""".split()
SCALED = {
    "factor": 8.0,
    "low_freq_factor": 1,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def without(raw: dict, *names: str) -> dict:
    return {name: value for name, value in raw.items() if name not in names}


def rope(**keys) -> Rope:
    config = read_config(without(LLAMA, "rope_theta") | keys)
    assert isinstance(config, DecoderConfig)
    return config.rope


def problems(raw: dict) -> list[str]:
    with pytest.raises(ValueError, match=r"^cannot read .*config.json.*:\n") as error:
        read_config(raw)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


# What is read


def test_llama_mechanisms():
    assert read_config(LLAMA) == DecoderConfig(
        vocab=64,
        dim=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        mlp_dim=48,
        activation="silu",
        norm_eps=1e-5,
        max_positions=128,
        rope=Rope(theta=500.0, scaling=None),
        attention_bias=False,
        mlp_bias=False,
        head="own",
    )


def test_bert_mechanisms():
    assert read_config(BERT) == EncoderConfig(
        vocab=64,
        dim=32,
        layers=2,
        heads=4,
        mlp_dim=48,
        activation="gelu",
        norm_eps=1e-5,
        max_positions=128,
        token_types=3,
    )


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"num_key_value_heads": None}, "kv_heads", 4),
        ({"head_dim": 16}, "head_dim", 16),
        ({"head_dim": None}, "head_dim", 8),
        ({"rms_norm_eps": None}, "norm_eps", 1e-6),
        ({"attention_bias": True}, "attention_bias", True),
        ({"mlp_bias": True}, "mlp_bias", True),
        ({"tie_word_embeddings": True}, "head", "tied"),
        ({"architectures": ["LlamaModel"]}, "head", "none"),
        ({"architectures": ["LlamaModel"], "tie_word_embeddings": True}, "head", "none"),
        ({"architectures": None}, "head", "own"),
    ],
)
def test_llama_choices(change, field, expected):
    assert getattr(read_config(LLAMA | change), field) == expected


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [({"layer_norm_eps": None}, "norm_eps", 1e-12), ({"type_vocab_size": None}, "token_types", 2)],
)
def test_bert_choices(change, field, expected):
    assert getattr(read_config(BERT | change), field) == expected


@pytest.mark.parametrize(
    "variant", ["mha", "gqa", "wide", "tied", "biases", "llama3", "bare", "bert", "masked_lm"]
)
def test_what_transformers_writes_is_what_we_read(tiny, variant):
    folder, _ = tiny(variant)
    ours, theirs = read_config(raw_config(folder)), AutoConfig.from_pretrained(folder)
    assert ours.vocab == theirs.vocab_size
    assert ours.dim == theirs.hidden_size
    assert ours.layers == theirs.num_hidden_layers
    assert ours.heads == theirs.num_attention_heads
    assert ours.mlp_dim == theirs.intermediate_size
    assert ours.activation == theirs.hidden_act
    assert ours.max_positions == theirs.max_position_embeddings
    if isinstance(ours, EncoderConfig):
        assert ours.norm_eps == theirs.layer_norm_eps
        assert ours.token_types == theirs.type_vocab_size
    else:
        assert ours.norm_eps == theirs.rms_norm_eps
        assert (ours.kv_heads, ours.head_dim) == (theirs.num_key_value_heads, theirs.head_dim)
        assert (ours.attention_bias, ours.mlp_bias) == (theirs.attention_bias, theirs.mlp_bias)
        assert ours.rope.theta == theirs.rope_parameters["rope_theta"]


# Rotary positions, in the spelling of each generation of transformers


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", **SCALED}},
        {"rope_theta": 500, "rope_scaling": {"rope_type": "llama3", **SCALED}},
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", "rope_type": "llama3", **SCALED}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **SCALED}},
        {"rope_theta": 500.0, "rope_parameters": {"rope_type": "llama3", **SCALED}},
    ],
)
def test_scaled_rope_in_every_spelling(keys):
    scaling = Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64
    )
    assert rope(**keys) == Rope(theta=500.0, scaling=scaling)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_scaling": None},
        {"rope_theta": 500, "rope_scaling": {"type": "default"}},
        {"rope_theta": 500, "rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 500.0}},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
    ],
)
def test_plain_rope_in_every_spelling(keys):
    assert rope(**keys) == Rope(theta=500.0, scaling=None)


def test_rope_without_any_key_is_that_of_the_first_llama():
    assert rope() == Rope(theta=10000.0, scaling=None)


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_rope_problems_come_at_once(spelling):
    scaling = {"rope_type": "llama3", "factor": "8", "low_freq_factor": 1, "beta_fast": 32}
    assert problems(LLAMA | {spelling: scaling}) == [
        "beta_fast: unknown key",
        "factor: must be int or float, got '8'",
        "high_freq_factor: missing",
        "original_max_position_embeddings: missing",
    ]


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_rope_of_another_type_is_refused(key):
    assert problems(LLAMA | {"rope_scaling": {key: "yarn", "factor": 8.0}}) == [
        "factor: unknown key",
        "rope_type: must be one of ['default', 'llama3'], got 'yarn'",
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"rope_theta": 500.0, "rope_parameters": {"rope_theta": 600.0}},
            "config.json gives rope_theta as 500.0 and as 600.0",
        ),
        (
            {"rope_scaling": {"type": "default", "rope_type": "llama3"}},
            "config.json gives rope_type as 'default' and as 'llama3'",
        ),
    ],
)
def test_rope_spellings_that_disagree_are_refused(keys, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rope(**keys)


# What is refused


@pytest.mark.parametrize("family", sorted(RAW))
def test_unknown_key_is_refused(family):
    assert problems(RAW[family] | {"sliding_window": 16}) == ["sliding_window: unknown key"]


@pytest.mark.parametrize(
    ("family", "name"),
    list(itertools.product(RAW, REQUIRED)),
)
@pytest.mark.parametrize("null", [False, True], ids=["absent", "null"])
def test_missing_key_is_refused(family, name, null):
    raw = RAW[family] | {name: None} if null else without(RAW[family], name)
    assert problems(raw) == [f"{name}: missing"]


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in RAW for name in FAMILIES[family].keys],
)
def test_wrong_type_is_refused(family, name):
    (problem,) = problems(RAW[family] | {name: b"odd"})
    assert re.fullmatch(rf"{name}: must be [\w ]+, got b'odd'", problem)


@pytest.mark.parametrize(
    ("family", "name", "value", "allowed"),
    [
        ("llama", "hidden_act", "gelu", ["silu"]),
        ("llama", "rope_interleaved", True, [False]),
        ("bert", "hidden_act", "gelu_new", ["gelu"]),
        ("bert", "position_embedding_type", "relative_key", ["absolute"]),
        ("bert", "is_decoder", True, [False]),
        ("bert", "add_cross_attention", True, [False]),
    ],
)
def test_unsupported_value_is_refused(family, name, value, allowed):
    assert problems(RAW[family] | {name: value}) == [
        f"{name}: must be one of {allowed}, got {value!r}"
    ]


@pytest.mark.parametrize("family", sorted(RAW))
def test_all_offenders_are_in_one_message(family):
    raw = without(RAW[family], "vocab_size") | {
        "zeta": 1,
        "alpha": 2,
        "hidden_size": "wide",
        "hidden_act": "relu",
    }
    activation = {"llama": "silu", "bert": "gelu"}[family]
    assert problems(raw) == [
        "alpha: unknown key",
        "zeta: unknown key",
        "vocab_size: missing",
        "hidden_size: must be int, got 'wide'",
        f"hidden_act: must be one of {[activation]}, got 'relu'",
    ]


@pytest.mark.parametrize(
    ("raw", "got"), [({"model_type": "gpt2"}, "'gpt2'"), ({}, "None"), ({"model_type": 3}, "3")]
)
def test_unknown_model_type_is_refused(raw, got):
    message = rf"^model_type must be one of \['bert', 'llama'\], got {got}$"
    with pytest.raises(ValueError, match=message):
        family_of(raw)


@pytest.mark.parametrize("family", sorted(RAW))
def test_remote_code_is_refused(family):
    raw = RAW[family] | {"auto_map": {"AutoModel": "modeling.Mine"}}
    message = "^config.json has auto_map: its model needs remote code, which is never run$"
    with pytest.raises(ValueError, match=message):
        read_config(raw)
