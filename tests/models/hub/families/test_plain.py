import re
from operator import attrgetter
from typing import Any

import pytest

from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    Dropout,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
)
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.initial import Init
from ilo_jax.models.rotary import Rope
from tests.models.hub.families.rows import GELUS, RAW

NORM = Norm(kind="layer", eps=1e-5, bias=True)
PLAIN = Norm(kind="layer", eps=1e-5, scale=False)


def block(
    *,
    activation: str,
    bias: bool = True,
    norm: Norm = NORM,
    place: str = "pre",
    parallel: bool = False,
    **attention: Any,
) -> BlockConfig:
    plain: dict[str, Any] = {"heads": 4, "kv_heads": 4, "head_dim": 8, "scale": 8**-0.5}
    plain |= {"qkv_bias": bias, "out_bias": bias}
    return BlockConfig(
        attention=AttentionConfig(**plain | attention),
        mlp=MlpConfig(dim=128, activation=activation, bias=bias),
        norm=norm,
        norm_place=place,
        parallel=parallel,
    )


def model(
    *blocks: BlockConfig,
    final: Norm | None = NORM,
    head: str = "tied",
    max_positions: int | None = 128,
    init: Init = Init(),  # noqa: B008
    dropout: Dropout = Dropout(),  # noqa: B008
    **embedding,
) -> ModelConfig:
    return ModelConfig(
        causal=True,
        embedding=EmbeddingConfig(vocab=64, dim=32, **embedding),
        blocks=blocks,
        final_norm=final,
        head=HeadConfig(kind=head),
        max_positions=max_positions,
        init=init,
        dropout=dropout,
    )


GPT2: dict[str, Any] = {
    "init": Init(by_depth=True),
    "dropout": Dropout(embedding=0.1, attention=0.1, residual=0.1),
}
OPT: dict[str, Any] = {"dropout": Dropout(residual=0.1)}
XGLM: dict[str, Any] = {"dropout": Dropout(embedding=0.1, attention=0.1, residual=0.1)}

EXPECTED: dict[str, ModelConfig] = {
    "bloom": model(
        *[block(activation="gelu_pytorch_tanh", alibi=True)] * 2, norm=NORM, max_positions=None
    ),
    "xglm": model(
        *[block(activation="gelu")] * 2, scale=32**0.5, positions="sinusoidal", offset=2, **XGLM
    ),
    "opt": model(*[block(activation="relu")] * 2, positions="learned", rows=130, offset=2, **OPT),
    "gpt2": model(*[block(activation="gelu_new")] * 2, positions="learned", rows=128, **GPT2),
    "gpt_neox": model(
        *[block(activation="gelu", parallel=True, rope=Rope(theta=1e4, dims=2))] * 2, head="own"
    ),
}


@pytest.mark.parametrize("model_type", EXPECTED)
def test_mechanisms(model_type):
    assert read_config(RAW[model_type]) == EXPECTED[model_type]


def test_opt_350m_is_post_norm_with_a_narrow_table():
    config = RAW["opt"] | {"do_layer_norm_before": False, "word_embed_proj_dim": 16}
    assert read_config(config) == model(
        *[block(activation="relu", place="post")] * 2,
        final=None,
        inner_dim=16,
        positions="learned",
        rows=130,
        offset=2,
        **OPT,
    )


def test_opt_without_biases_and_weights_of_norms():
    """As Galactica is."""
    config = RAW["opt"] | {"enable_bias": False, "layer_norm_elementwise_affine": False}
    assert read_config(config) == model(
        *[block(activation="relu", bias=False, norm=PLAIN)] * 2,
        final=PLAIN,
        positions="learned",
        rows=130,
        offset=2,
        **OPT,
    )


def test_gpt2_may_scale_by_the_block():
    blocks = [block(activation="gelu_new", scale=8**-0.5 / i) for i in (1, 2)]
    config = RAW["gpt2"] | {"scale_attn_by_inverse_layer_idx": True}
    assert read_config(config) == model(*blocks, positions="learned", rows=128, **GPT2)


@pytest.mark.parametrize(
    ("model_type", "change", "part", "expected"),
    [
        ("bloom", {"tie_word_embeddings": False}, "head.kind", "own"),
        ("bloom", {"layer_norm_epsilon": 0.5}, "final_norm.eps", 0.5),
        ("xglm", {"scale_embedding": False}, "embedding.scale", 1.0),
        ("opt", {"word_embed_proj_dim": 32}, "embedding.inner_dim", None),
        ("opt", {"_remove_final_layer_norm": True}, "final_norm", None),
        ("gpt2", {"architectures": ["GPT2Model"]}, "head.kind", "none"),
        ("gpt2", {"architectures": ["GPT2LMHeadModel"]}, "head.kind", "tied"),
        ("gpt_neox", {"tie_word_embeddings": True}, "head.kind", "tied"),
    ],
)
def test_choice_of_a_family(model_type, change, part, expected):
    assert attrgetter(part)(read_config(RAW[model_type] | change)) == expected


@pytest.mark.parametrize(
    ("model_type", "change", "part", "expected"),
    [
        ("xglm", {"activation_function": "relu"}, "mlp.activation", "relu"),
        ("gpt2", {"n_inner": 48}, "mlp.dim", 48),
        ("gpt2", {"n_inner": None}, "mlp.dim", 128),
        ("gpt2", {"scale_attn_weights": False}, "attention.scale", 1.0),
        ("gpt_neox", {"use_parallel_residual": False}, "parallel", False),
        ("gpt_neox", {"attention_bias": False}, "attention.qkv_bias", False),
        ("gpt_neox", {"attention_bias": False}, "mlp.bias", True),
        ("gpt_neox", {"rotary_pct": 1.0}, "attention.rope", Rope(theta=1e4, dims=8)),
        ("gpt_neox", {"partial_rotary_factor": 0.5}, "attention.rope", Rope(theta=1e4, dims=4)),
        ("gpt_neox", {"rotary_emb_base": 500.0}, "attention.rope", Rope(theta=500.0, dims=2)),
        ("gpt_neox", {"rope_theta": 500.0}, "attention.rope", Rope(theta=500.0, dims=2)),
        (
            "gpt_neox",
            {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5}},
            "attention.rope",
            Rope(theta=500.0, dims=4),
        ),
    ],
)
def test_choice_of_a_block(model_type, change, part, expected):
    assert attrgetter(part)(read_config(RAW[model_type] | change).blocks[0]) == expected


@pytest.mark.parametrize(
    ("model_type", "name", "value", "allowed"),
    [
        ("bloom", "apply_residual_connection_post_layernorm", True, [False]),
        ("xglm", "add_cross_attention", True, [False]),
        ("xglm", "activation_function", "swish", GELUS),
        ("xglm", "pad_token_id", 2, [0, 1]),
        ("opt", "activation_function", "swish", GELUS),
        ("gpt2", "add_cross_attention", True, [False]),
        ("gpt2", "activation_function", "swish", GELUS),
        ("gpt_neox", "hidden_act", "swish", GELUS),
    ],
)
def test_unsupported_value_is_refused(model_type, name, value, allowed):
    problem = f"{name}: must be one of {allowed}, got {value!r}"
    with pytest.raises(ValueError, match=rf"{model_type}':\n  {re.escape(problem)}$"):
        read_config(RAW[model_type] | {name: value})
