import dataclasses
import re

import pytest

from ilo_jax.models.config import HeadConfig, ModelConfig, Norm
from ilo_jax.models.hub.families.facts import Facts, gather, model_config
from ilo_jax.models.hub.families.rotary import Rotary
from ilo_jax.models.rotary import Rope

REQUIRED = {
    "vocab": 64,
    "dim": 32,
    "layers": 6,
    "heads": 4,
    "activation": "silu",
    "norm_eps": 1e-5,
    "norm_kind": "rms",
    "tied": False,
    "max_positions": 128,
}
NORM = Norm(kind="rms", eps=1e-5)
FULL, SLIDING = "full_attention", "sliding_attention"


def config(**facts) -> ModelConfig:
    return model_config(gather(REQUIRED | facts))


def windows(**facts) -> list[int | None]:
    return [block.attention.window for block in config(**facts).blocks]


def test_facts_of_rotary_positions_have_their_own_place():
    facts = gather(REQUIRED | {"rope_theta": 5.0, "interleaved": True})
    assert facts == Facts(**REQUIRED, rotary=Rotary(rope_theta=5.0, interleaved=True))


def test_defaults_are_the_absence_of_mechanisms():
    found = config()
    assert found.causal
    assert (found.layers, found.dim, found.vocab, found.max_positions) == (6, 32, 64, 128)
    assert found.final_norm == NORM
    assert found.head == HeadConfig(kind="own")
    assert dataclasses.asdict(found.embedding) == {
        "vocab": 64,
        "dim": 32,
        "inner_dim": None,
        "scale": 1.0,
        "positions": "none",
        "rows": 0,
        "offset": 0,
        "padding": None,
        "token_types": 0,
        "norm": None,
    }
    (block,) = set(found.blocks)
    assert dataclasses.asdict(block.mlp) == {
        "dim": 128,
        "activation": "silu",
        "gated": False,
        "bias": False,
    }
    assert (block.norm, block.norm_place, block.parallel, block.shared_norm) == (
        NORM,
        "pre",
        False,
        False,
    )
    attention = block.attention
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (4, 4, 8)
    assert attention.scale == 8**-0.5
    assert attention.rope == Rope(theta=1e4, dims=8)
    assert attention.window is attention.softcap is attention.qk_norm is None
    assert not (attention.qkv_bias)
    assert not (attention.out_bias)
    assert not (attention.alibi)


@pytest.mark.parametrize(
    ("facts", "part", "expected"),
    [
        ({"mlp_dim": 48}, "mlp.dim", 48),
        ({"gated": True}, "mlp.gated", True),
        ({"mlp_bias": True}, "mlp.bias", True),
        ({"kv_heads": 2}, "attention.kv_heads", 2),
        ({"head_dim": 16}, "attention.head_dim", 16),
        ({"head_dim": 16}, "attention.scale", 0.25),
        ({"scale_dim": 4.0}, "attention.scale", 0.5),
        ({"scaled": False}, "attention.scale", 1.0),
        ({"qkv_bias": True}, "attention.qkv_bias", True),
        ({"out_bias": True}, "attention.out_bias", True),
        ({"softcap": 50.0}, "attention.softcap", 50.0),
        ({"positions": "alibi"}, "attention.alibi", True),
        ({"positions": "alibi"}, "attention.rope", None),
        ({"positions": "learned"}, "attention.rope", None),
        ({"positions": "sinusoidal"}, "attention.rope", None),
        ({"qk_norm": True}, "attention.qk_norm", NORM),
        ({"qk_norm": True, "norm_bias": True}, "attention.qk_norm", NORM),
        ({"qk_norm": True, "qk_norm_over": "all"}, "attention.qk_norm_over", "all"),
        ({"norm_bias": True}, "norm", dataclasses.replace(NORM, bias=True)),
        ({"norm_scale": False}, "norm", dataclasses.replace(NORM, scale=False)),
        ({"norm_from_one": True}, "norm", dataclasses.replace(NORM, from_one=True)),
        ({"norm_place": "sandwich"}, "norm_place", "sandwich"),
        ({"parallel": True, "shared_norm": True}, "shared_norm", True),
    ],
)
def test_fact_becomes_the_mechanism_of_every_block(facts, part, expected):
    for found in config(**facts).blocks:
        for name in part.split("."):
            found = getattr(found, name)
        assert found == expected


@pytest.mark.parametrize(
    ("facts", "part", "expected"),
    [
        ({"inner_dim": 16}, "inner_dim", 16),
        ({"inner_dim": 32}, "inner_dim", None),
        ({"embed_scaled": True}, "scale", 32**0.5),
        ({"embed_norm": True}, "norm", NORM),
        ({"token_types": 2}, "token_types", 2),
        ({"positions": "alibi"}, "positions", "none"),
        ({"positions": "learned"}, "positions", "learned"),
        ({"positions": "learned"}, "rows", 128),
        ({"positions": "learned", "offset": 2}, "rows", 130),
        ({"positions": "learned", "offset": 2}, "offset", 2),
        ({"positions": "sinusoidal", "offset": 2}, "rows", 0),
        ({"positions": "learned", "padding_row": 1}, "rows", 128),
        ({"positions": "learned", "padding_row": 1}, "offset", 2),
    ],
)
def test_fact_becomes_the_mechanism_of_the_embedding(facts, part, expected):
    assert getattr(config(**facts).embedding, part) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, 128),
        ({"max_positions": None}, None),
        ({"positions": "learned", "offset": 2}, 128),
        ({"positions": "learned", "padding_row": 1}, 126),
        ({"positions": "learned", "padding_row": 0}, 127),
    ],
)
def test_longest_sentence(facts, expected):
    assert config(**facts).max_positions == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, NORM),
        ({"norm_place": "out"}, NORM),
        ({"norm_place": "sandwich"}, NORM),
        ({"norm_place": "post"}, None),
        ({"no_final_norm": True}, None),
    ],
)
def test_final_norm(facts, expected):
    assert config(**facts).final_norm == expected


def test_scores_may_fall_with_the_block():
    found = config(scaled_by_layer=True)
    scales = [block.attention.scale for block in found.blocks]
    assert scales == pytest.approx([8**-0.5 / i for i in range(1, 7)], rel=1e-12)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, [None] * 6),
        ({"window": 9}, [9] * 6),
        ({"window": 9, "windowed": False}, [None] * 6),
        ({"window": 9, "full_every": 2}, [9, None] * 3),
        ({"window": 9, "full_every": 3}, [9, 9, None] * 2),
        ({"window": 9, "full_every": 2, "windowed": False}, [None] * 6),
        ({"full_every": 2}, [None] * 6),
        ({"window": 9, "windowed_from": 4}, [None] * 4 + [9] * 2),
        ({"window": 9, "windowed_from": 28}, [None] * 6),
        ({"window": 9, "layer_types": [FULL, SLIDING, SLIDING] * 2}, [None, 9, 9] * 2),
        ({"window": 9, "full_every": 2, "layer_types": [FULL] * 6}, [None] * 6),
    ],
)
def test_blocks_with_a_window(facts, expected):
    assert windows(**facts) == expected


def test_blocks_turn_by_their_kind():
    found = config(window=9, full_every=2, rope_theta=500.0, sliding_theta=7.0, rotary_fraction=0.5)
    thetas = [block.attention.rope.theta for block in found.blocks if block.attention.rope]
    assert thetas == [7.0, 500.0] * 3
    found = config(window=9, full_every=2, sliding_only=True)
    assert [block.attention.rope is None for block in found.blocks] == [False, True] * 3


@pytest.mark.parametrize(
    ("architectures", "causal", "kind"),
    [
        (None, True, "own"),
        (None, False, "none"),
        (["LlamaForCausalLM"], True, "own"),
        (["GPT2LMHeadModel"], True, "own"),
        (["BertForMaskedLM"], False, "own"),
        (["BertForPreTraining"], False, "own"),
        (["LlamaModel"], True, "none"),
        (["BertModel"], False, "none"),
        (["LlamaForSequenceClassification"], True, "none"),
        (["BertForTokenClassification"], False, "none"),
        (["LlamaForCausalLM", "LlamaModel"], True, "own"),
        (["LlamaModel", "LlamaForCausalLM"], True, "own"),
        ([], True, "own"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_head_by_the_architecture(architectures, causal, kind, tied):
    found = config(architectures=architectures, causal=causal, tied=tied).head
    assert found.kind == ("tied" if tied and kind == "own" else kind)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"tied": True}, HeadConfig(kind="tied")),
        ({"logit_scale": 0.25}, HeadConfig(kind="own", scale=0.25)),
        ({"logit_softcap": 30.0}, HeadConfig(kind="own", softcap=30.0)),
        ({"head_dense": True}, HeadConfig(kind="own", bias=True, activation="silu", norm=NORM)),
        ({"head_dense": True, "architectures": ["BertModel"]}, HeadConfig(kind="none")),
    ],
)
def test_fact_becomes_the_mechanism_of_the_head(facts, expected):
    assert config(**facts).head == expected


LAYER_TYPES = "layer_types must be 6 of 'full_attention' and 'sliding_attention', got "


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"heads": 5}, "dim (32) must be a multiple of heads, 5"),
        ({"kv_heads": 3}, "heads (4) must be a multiple of kv_heads, 3"),
        ({"layer_types": [FULL] * 5}, f"{LAYER_TYPES}{[FULL] * 5}"),
        ({"layer_types": []}, f"{LAYER_TYPES}[]"),
        ({"layer_types": ["chunked"] * 6}, f"{LAYER_TYPES}{['chunked'] * 6}"),
        ({"norm_place": "post", "parallel": True}, "parallel blocks need norm_place 'pre', "),
        ({"norm_kind": "batch"}, 'kind of a norm must be "rms" or "layer", '),
    ],
)
def test_contradiction_is_refused(facts, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        config(**facts)


def test_heads_need_not_divide_where_their_dims_are_given():
    assert config(heads=5, head_dim=8).blocks[0].attention.head_dim == 8


def test_sizes_below_one_are_refused_together():
    message = "sizes in config.json must be at least 1, got layers 0, kv_heads 0, window -1"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        config(layers=0, kv_heads=0, window=-1)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"window": None},
            "layer_types has 'sliding_attention', but the window is None and in use",
        ),
        (
            {"window": 9, "windowed": False},
            "layer_types has 'sliding_attention', but the window is 9 and not in use",
        ),
    ],
)
def test_sliding_layers_without_a_window_are_refused(facts, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        config(layer_types=[SLIDING] * 6, **facts)


@pytest.mark.parametrize("size", [{"scale_dim": 0.0}, {"full_every": 0}, {"inner_dim": 0}])
def test_counts_below_one_are_refused(size):
    ((name, value),) = size.items()
    message = f"sizes in config.json must be at least 1, got {name} {value}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        config(**size)
