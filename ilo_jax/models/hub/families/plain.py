"""Decoders with LayerNorm and a plain MLP, each with names and positions of its own."""

from ilo_jax.models.hub.families.family import (
    CAUSAL,
    CHECKED,
    INERT,
    INV_FREQ,
    MAX_POSITIONS,
    NO_CROSS_ATTENTION,
    OTHER_HEADS,
    PLAIN,
    ROTARY_KEYS,
    Family,
    Place,
    dropped,
    places,
)
from ilo_jax.models.hub.families.reading import NUMBER, Key, only

LAYER_NORM = {"norm_kind": "layer", "norm_bias": True}
BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
COMMON_KEYS = (
    CHECKED
    | CAUSAL
    | {
        "architectures": Key("architectures", list, None),
        "vocab_size": Key("vocab", int),
        "tie_word_embeddings": Key("tied", bool, True),
    }
)

BLOOM = Family(
    keys=COMMON_KEYS
    | dropped("attention_dropout", "attention", rate=0.0)
    | dropped("hidden_dropout", "residual", rate=0.0)
    | {
        "hidden_size": Key("dim", int, also=("n_embed",)),
        "n_layer": Key("layers", int, also=("num_hidden_layers",)),
        "n_head": Key("heads", int, also=("num_attention_heads",)),
        "layer_norm_epsilon": Key("norm_eps", NUMBER, 1e-5),
        "apply_residual_connection_post_layernorm": only(value=False),
    },
    inert=INERT
    | set(
        """attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion n_inner offset_alibi
        seq_length skip_bias_add skip_bias_add_qkv slow_but_exact""".split()
    ),
    facts=LAYER_NORM
    | BIASES
    | {"positions": "alibi", "embed_norm": True, "activation": "gelu_pytorch_tanh"},
    names=places({
        "embed/tokens": "transformer.word_embeddings",
        "embed/norm": "transformer.word_embeddings_layernorm",
        "layers/*/attn_norm": "transformer.h.*.input_layernorm",
        "layers/*/attn/o": "transformer.h.*.self_attention.dense",
        "layers/*/mlp_norm": "transformer.h.*.post_attention_layernorm",
        "layers/*/mlp/up": "transformer.h.*.mlp.dense_h_to_4h",
        "layers/*/mlp/down": "transformer.h.*.mlp.dense_4h_to_h",
        "norm": "transformer.ln_f",
        "head/out": "lm_head",
    })
    | {
        f"layers/*/attn/{p}": Place("transformer.h.*.self_attention.query_key_value", "heads")
        for p in "qkv"
    },
    prefix="transformer.",
    ignored=(OTHER_HEADS,),
    backbone="BloomModel",
    language_model="BloomForCausalLM",
)

FAIRSEQ_NAMES = {f"layers/*/attn/{p}": f"layers.*.self_attn.{p}_proj" for p in "qkv"} | {
    "embed/tokens": "embed_tokens",
    "layers/*/attn_norm": "layers.*.self_attn_layer_norm",
    "layers/*/attn/o": "layers.*.self_attn.out_proj",
    "layers/*/mlp_norm": "layers.*.final_layer_norm",
    "layers/*/mlp/up": "layers.*.fc1",
    "layers/*/mlp/down": "layers.*.fc2",
}
"""What XGLM and OPT, both from fairseq, have in common."""

INIT_KEY = {"init_std": Key("init_std", NUMBER, 0.02, also=("initializer_range",))}
FAIRSEQ_KEYS = {name: key for name, key in COMMON_KEYS.items() if name != "initializer_range"}
FAIRSEQ_KEYS |= INIT_KEY | dropped("layerdrop", "blocks", rate=0.0)

XGLM = Family(
    keys=FAIRSEQ_KEYS
    | NO_CROSS_ATTENTION
    | dropped("dropout", "embedding residual", rate=0.1)
    | dropped("attention_dropout", "attention", rate=0.1)
    | dropped("activation_dropout", "neurons", rate=0.0)
    | {
        "d_model": Key("dim", int, also=("hidden_size",)),
        "num_layers": Key("layers", int, also=("num_hidden_layers",)),
        "attention_heads": Key("heads", int, also=("num_attention_heads",)),
        "ffn_dim": Key("mlp_dim", int),
        "activation_function": Key("activation", str, "gelu", PLAIN),
        "max_position_embeddings": Key("max_positions", int),
        "scale_embedding": Key("embed_scaled", bool, True),
        # The position of a higher padding id would be a row of zeros.
        "pad_token_id": Key("", int, 1, (0, 1)),
    },
    inert=INERT | {"decoder_start_token_id"},
    facts=LAYER_NORM | BIASES | {"positions": "sinusoidal", "offset": 2, "norm_eps": 1e-5},
    names=places(
        {ours: f"model.{theirs}" for ours, theirs in FAIRSEQ_NAMES.items()}
        | {"norm": "model.layer_norm", "head/out": "lm_head"}
    ),
    prefix="model.",
    ignored=(
        OTHER_HEADS,
        r"(model\.)?embed_positions\.weights",
    ),
    backbone="XGLMModel",
    language_model="XGLMForCausalLM",
)

OPT = Family(
    keys=FAIRSEQ_KEYS
    | dropped("dropout", "residual", rate=0.1)
    | dropped("attention_dropout", "attention", rate=0.0)
    | {
        "hidden_size": Key("dim", int),
        "word_embed_proj_dim": Key("inner_dim", int, None),
        "num_hidden_layers": Key("layers", int),
        "num_attention_heads": Key("heads", int),
        "ffn_dim": Key("mlp_dim", int),
        "activation_function": Key("activation", str, "relu", PLAIN),
        "max_position_embeddings": Key("max_positions", int),
        "do_layer_norm_before": Key("norm_place", bool, True, {True: "pre", False: "post"}),
        "_remove_final_layer_norm": Key("no_final_norm", bool, False),
        "learned_embeddings": only(value=True),
        "scale_embeddings": only(value=False),
        "enable_bias": Key("qkv_bias out_bias mlp_bias", bool, True),
        "layer_norm_elementwise_affine": Key("norm_scale norm_bias", bool, True),
    },
    inert=INERT | {"activation_dropout", "prefix"},
    facts={"norm_kind": "layer", "norm_eps": 1e-5, "positions": "learned", "offset": 2},
    names=places(
        {ours: f"model.decoder.{theirs}" for ours, theirs in FAIRSEQ_NAMES.items()}
        | {
            "embed/positions": "model.decoder.embed_positions",
            "embed/project": "model.decoder.project_in",
            "norm": "model.decoder.final_layer_norm",
            "head/project": "model.decoder.project_out",
            "head/out": "lm_head",
        }
    ),
    prefix="model.",
    ignored=(OTHER_HEADS,),
    backbone="OPTModel",
    language_model="OPTForCausalLM",
)

GPT2 = Family(
    keys=COMMON_KEYS
    | NO_CROSS_ATTENTION
    | dropped("embd_pdrop", "embedding", rate=0.1)
    | dropped("attn_pdrop", "attention", rate=0.1)
    | dropped("resid_pdrop", "residual", rate=0.1)
    | {
        "n_embd": Key("dim", int, also=("hidden_size",)),
        "n_layer": Key("layers", int, also=("num_hidden_layers",)),
        "n_head": Key("heads", int, also=("num_attention_heads",)),
        "n_inner": Key("mlp_dim", int, None),
        "n_positions": Key("max_positions", int, also=("n_ctx", "max_position_embeddings")),
        "activation_function": Key("activation", str, "gelu_new", PLAIN),
        "layer_norm_epsilon": Key("norm_eps", NUMBER, 1e-5),
        "scale_attn_weights": Key("scaled", bool, True),
        "scale_attn_by_inverse_layer_idx": Key("scaled_by_layer", bool, False),
    },
    inert=INERT
    | set(
        """afn apply_query_key_layer_scaling n_special normalize_attention_scores
        predict_special_tokens reorder_and_upcast_attn summary_activation summary_first_dropout
        summary_hidden_size summary_proj_to_labels summary_type summary_use_proj""".split()
    ),
    facts=LAYER_NORM | BIASES | {"positions": "learned", "init_by_depth": True},
    names=places({
        "embed/tokens": "transformer.wte",
        "embed/positions": "transformer.wpe",
        "layers/*/attn_norm": "transformer.h.*.ln_1",
        "layers/*/mlp_norm": "transformer.h.*.ln_2",
        "norm": "transformer.ln_f",
        "head/out": "lm_head",
    })
    | {
        f"layers/*/attn/{p}": Place("transformer.h.*.attn.c_attn", "rows", inputs_first=True)
        for p in "qkv"
    }
    | {
        f"layers/*/{ours}": Place(f"transformer.h.*.{theirs}", inputs_first=True)
        for ours, theirs in (
            ("attn/o", "attn.c_proj"),
            ("mlp/up", "mlp.c_fc"),
            ("mlp/down", "mlp.c_proj"),
        )
    },
    prefix="transformer.",
    ignored=(
        OTHER_HEADS,
        r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",
    ),
    backbone="GPT2Model",
    language_model="GPT2LMHeadModel",
)

GPT_NEOX = Family(
    keys=COMMON_KEYS
    | dropped("attention_dropout", "attention", rate=0.0)
    | dropped("hidden_dropout", "embedding residual", rate=0.0)
    | {name: key for name, key in ROTARY_KEYS.items() if name != "partial_rotary_factor"}
    | MAX_POSITIONS
    | {
        "hidden_size": Key("dim", int),
        "num_hidden_layers": Key("layers", int),
        "num_attention_heads": Key("heads", int),
        "intermediate_size": Key("mlp_dim", int),
        "hidden_act": Key("activation", str, "gelu", PLAIN),
        "layer_norm_eps": Key("norm_eps", NUMBER, 1e-5),
        "tie_word_embeddings": Key("tied", bool, False),
        "use_parallel_residual": Key("parallel", bool, True),
        "attention_bias": Key("qkv_bias out_bias", bool, True),
        "rope_theta": Key("rope_theta", NUMBER, None, also=("rotary_emb_base",)),
        "rotary_pct": Key("rotary_fraction", NUMBER, None, also=("partial_rotary_factor",)),
    },
    inert=INERT | {"is_decoder", "num_steps"},
    facts=LAYER_NORM | {"mlp_bias": True, "default_fraction": 0.25},
    names=places({
        "embed/tokens": "gpt_neox.embed_in",
        "layers/*/attn_norm": "gpt_neox.layers.*.input_layernorm",
        "layers/*/attn/o": "gpt_neox.layers.*.attention.dense",
        "layers/*/mlp_norm": "gpt_neox.layers.*.post_attention_layernorm",
        "layers/*/mlp/up": "gpt_neox.layers.*.mlp.dense_h_to_4h",
        "layers/*/mlp/down": "gpt_neox.layers.*.mlp.dense_4h_to_h",
        "norm": "gpt_neox.final_layer_norm",
        "head/out": "embed_out",
    })
    | {
        f"layers/*/attn/{p}": Place("gpt_neox.layers.*.attention.query_key_value", "heads")
        for p in "qkv"
    },
    prefix="gpt_neox.",
    ignored=(INV_FREQ, OTHER_HEADS, r".*\.attention\.(masked_)?bias"),
    backbone="GPTNeoXModel",
    language_model="GPTNeoXForCausalLM",
)
