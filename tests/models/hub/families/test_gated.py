import re
from operator import attrgetter
from typing import Any

import pytest

from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
)
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.rotary import LongScaling, Rope
from tests.models.hub.families.rows import GATES, RAW, TANH

ROPE = Rope(theta=1e4, dims=8)
RMS, RMS_5 = Norm(kind="rms", eps=1e-6), Norm(kind="rms", eps=1e-5)
FROM_ONE = Norm(kind="rms", eps=1e-6, from_one=True)
LAYER = Norm(kind="layer", eps=1e-5)
OWN, TIED = HeadConfig(kind="own"), HeadConfig(kind="tied")


def block(
    norm: Norm,
    *,
    place: str = "pre",
    activation: str = "silu",
    mlp_bias: bool = False,
    parallel: bool = False,
    **attention,
) -> BlockConfig:
    """Return a block like Llama's but for the arguments."""
    plain: dict[str, Any] = {
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "scale": 8**-0.5,
        "rope": ROPE,
    }
    return BlockConfig(
        attention=AttentionConfig(**plain | attention),
        mlp=MlpConfig(dim=48, activation=activation, gated=True, bias=mlp_bias),
        norm=norm,
        norm_place=place,
        parallel=parallel,
        shared_norm=parallel,
    )


def model(*blocks: BlockConfig, head: HeadConfig = OWN, scale: float = 1.0) -> ModelConfig:
    return ModelConfig(
        causal=True,
        embedding=EmbeddingConfig(vocab=64, dim=32, scale=scale),
        blocks=blocks,
        final_norm=blocks[0].norm,
        head=head,
        max_positions=128,
    )


EXPECTED: dict[str, ModelConfig] = {
    "llama": model(*[block(RMS)] * 2),
    "mistral": model(*[block(RMS, window=9)] * 2),
    "qwen2": model(block(RMS, qkv_bias=True), block(RMS, qkv_bias=True, window=9)),
    "qwen3": model(
        *[block(RMS, head_dim=128, scale=128**-0.5, rope=Rope(theta=1e4, dims=128), qk_norm=RMS)]
        * 2
    ),
    "gemma": model(*[block(FROM_ONE, activation=TANH)] * 2, head=TIED, scale=32**0.5),
    "gemma2": model(
        block(FROM_ONE, place="sandwich", activation=TANH, scale=0.25, softcap=50.0, window=9),
        block(FROM_ONE, place="sandwich", activation=TANH, scale=0.25, softcap=50.0),
        head=HeadConfig(kind="tied", softcap=30.0),
        scale=32**0.5,
    ),
    "gemma3_text": model(
        block(
            FROM_ONE,
            place="sandwich",
            activation=TANH,
            scale=1 / 16,
            qk_norm=FROM_ONE,
            window=9,
        ),
        block(
            FROM_ONE,
            place="sandwich",
            activation=TANH,
            scale=1 / 16,
            qk_norm=FROM_ONE,
            rope=Rope(theta=1e6, dims=8),
        ),
        head=TIED,
        scale=32**0.5,
    ),
    "cohere": model(
        *[
            block(
                LAYER,
                parallel=True,
                rope=Rope(theta=5e5, dims=8, interleaved=True),
                qk_norm=LAYER,
                qk_norm_over="each",
            )
        ]
        * 2,
        head=HeadConfig(kind="tied", scale=0.0625),
    ),
    "cohere2": model(
        block(
            LAYER,
            parallel=True,
            rope=Rope(theta=1e4, dims=8, interleaved=True),
            qk_norm_over="each",
            window=9,
        ),
        block(LAYER, parallel=True, rope=None, qk_norm_over="each"),
        head=HeadConfig(kind="tied", scale=0.25),
    ),
    "olmo2": model(
        *[
            block(
                RMS_5,
                place="out",
                qk_norm=RMS_5,
                qk_norm_over="all",
                qkv_bias=True,
                out_bias=True,
            )
        ]
        * 2
    ),
    "phi3": model(
        *[
            block(
                RMS_5,
                window=9,
                rope=Rope(
                    theta=1e4,
                    dims=8,
                    scaling=LongScaling(
                        short_factor=(1.0,) * 4,
                        long_factor=(2.0,) * 4,
                        original_positions=64,
                        attention_factor=1.5,
                    ),
                ),
            )
        ]
        * 2
    ),
}


@pytest.mark.parametrize("model_type", EXPECTED)
def test_mechanisms(model_type):
    assert read_config(RAW[model_type]) == EXPECTED[model_type]


@pytest.mark.parametrize("model_type", sorted(set(EXPECTED) - {"phi3"}))
def test_choices_of_all(model_type):
    change = {"num_key_value_heads": None, "rope_theta": 7.0, "head_dim": 16}
    found = read_config(RAW[model_type] | change)
    assert {block.attention.kv_heads for block in found.blocks} == {4}
    assert {block.attention.head_dim for block in found.blocks} == {16}
    turned = [block.attention.rope for block in found.blocks if block.attention.rope]
    assert turned[-1].theta == 7.0
    for tied, kind in ((True, "tied"), (False, "own")):
        assert read_config(RAW[model_type] | {"tie_word_embeddings": tied}).head.kind == kind


@pytest.mark.parametrize(
    ("model_type", "change", "part", "expected"),
    [
        ("llama", {"rms_norm_eps": 0.5}, "norm.eps", 0.5),
        ("llama", {"attention_bias": True}, "attention.qkv_bias", True),
        ("llama", {"attention_bias": True}, "attention.out_bias", True),
        ("llama", {"mlp_bias": True}, "mlp.bias", True),
        ("mistral", {"sliding_window": None}, "attention.window", None),
        ("qwen2", {"use_sliding_window": None}, "attention.window", None),
        ("gemma", {"hidden_act": "gelu"}, "mlp.activation", TANH),
        ("gemma2", {"hidden_activation": "gelu"}, "mlp.activation", "gelu"),
        ("gemma2", {"hidden_act": "gelu"}, "mlp.activation", TANH),
        ("gemma2", {"attn_logit_softcapping": None}, "attention.softcap", None),
        ("cohere", {"use_qk_norm": None}, "attention.qk_norm", None),
        ("phi3", {"sliding_window": None}, "attention.window", None),
    ],
)
def test_choice_of_a_family(model_type, change, part, expected):
    assert attrgetter(part)(read_config(RAW[model_type] | change).blocks[1]) == expected


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "cohere2", "qwen2"])
def test_layer_types_say_which_blocks_slide(model_type):
    types = ["full_attention", "sliding_attention"]
    found = read_config(RAW[model_type] | {"layer_types": types})
    assert [block.attention.window for block in found.blocks] == [None, 9]


def test_missing_window_is_that_of_the_original_code():
    config = {k: v for k, v in RAW["mistral"].items() if k != "sliding_window"}
    assert read_config(config).blocks[0].attention.window == 4096


@pytest.mark.parametrize(
    ("model_type", "name", "value", "allowed"),
    [
        ("llama", "hidden_act", "relu", GATES),
        ("llama", "rope_interleaved", True, [False]),
        ("gemma", "hidden_act", "gelu_new", ["gelu", TANH]),
        ("gemma", "hidden_activation", "gelu", [TANH]),
        ("gemma2", "hidden_activation", "relu", GATES),
        ("gemma3_text", "use_bidirectional_attention", True, [False]),
        ("cohere2", "order_of_interleaved_layers", "global_first", ["local_attn_first"]),
        ("cohere2", "position_embedding_type", "alibi", ["rope_gptj"]),
        ("cohere2", "rotary_pct", 0.5, [1.0]),
        ("cohere2", "use_gated_activation", False, [True]),
        ("cohere2", "use_parallel_block", False, [True]),
        ("phi3", "attention_bias", True, [False]),
        ("phi3", "mlp_bias", True, [False]),
        ("phi3", "lm_head_bias", True, [False]),
        ("phi3", "full_attn_mod", 2, [1]),
        ("phi3", "interpolate_factor", 2, [1]),
    ],
)
def test_unsupported_value_is_refused(model_type, name, value, allowed):
    problem = f"{name}: must be one of {allowed}, got {value!r}"
    with pytest.raises(ValueError, match=rf"{model_type}':\n  {re.escape(problem)}$"):
        read_config(RAW[model_type] | {name: value})


def test_softcap_of_gemma_3_is_refused():
    problem = "attn_logit_softcapping: must be null, got 50.0"
    with pytest.raises(ValueError, match=rf"of model_type 'gemma3_text':\n  {problem}$"):
        read_config(RAW["gemma3_text"] | {"attn_logit_softcapping": 50.0})
