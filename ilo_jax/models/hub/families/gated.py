"""Decoders with rotary positions and a gated MLP: Llama and those that followed it."""

from types import NoneType

from ilo_jax.models.hub.families.family import (
    BACKBONE,
    BIAS_KEY,
    GATED_KEYS,
    GATES,
    INERT,
    INV_FREQ,
    KV_KEY,
    LAYER_TYPE_KEYS,
    OTHER_HEADS,
    RMS_KEY,
    Family,
    Place,
    dropped,
    places,
)
from ilo_jax.models.hub.families.reading import NUMBER, Key, only, unsupported

RMS = {"norm_kind": "rms", "gated": True}

LLAMA = Family(
    keys=GATED_KEYS
    | RMS_KEY
    | BIAS_KEY
    | {"mlp_bias": Key("mlp_bias", bool, False), "rope_interleaved": only(value=False)},
    inert=INERT | {"is_llama_config"},
    facts=RMS,
    names=BACKBONE,
    prefix="model.",
    ignored=(INV_FREQ, OTHER_HEADS),
    backbone="LlamaModel",
    language_model="LlamaForCausalLM",
)

MISTRAL = LLAMA._replace(
    keys=GATED_KEYS | KV_KEY | RMS_KEY | {"sliding_window": LAYER_TYPE_KEYS["sliding_window"]},
    inert=INERT,
    backbone="MistralModel",
    language_model="MistralForCausalLM",
)

QWEN2 = LLAMA._replace(
    keys=GATED_KEYS
    | KV_KEY
    | RMS_KEY
    | LAYER_TYPE_KEYS
    | {
        "use_sliding_window": Key("windowed", bool, False),
        "max_window_layers": Key("windowed_from", int, 28),
        "use_mrope": only(value=False),
        # Its tensors tell: queries, keys and values have biases, the output has none.
        "attention_bias": Key("", bool, True),
    },
    inert=INERT,
    facts=RMS | {"qkv_bias": True},
    backbone="Qwen2Model",
    language_model="Qwen2ForCausalLM",
)

QWEN3 = QWEN2._replace(
    keys=QWEN2.keys | BIAS_KEY | {"head_dim": Key("head_dim", int, 128)},
    facts=RMS | {"qk_norm": True},
    backbone="Qwen3Model",
    language_model="Qwen3ForCausalLM",
)

NUMBER_OR_NULL = (*NUMBER, NoneType)

TANH = "gelu_pytorch_tanh"

GEMMA_FACTS = RMS | {"norm_from_one": True, "embed_scaled": True}
GEMMA_KEYS = (
    GATED_KEYS
    | KV_KEY
    | RMS_KEY
    | BIAS_KEY
    | {
        "head_dim": Key("head_dim", int, 256),
        "tie_word_embeddings": Key("tied", bool, True),
        "use_bidirectional_attention": only(value=False),
    }
)

GEMMA = LLAMA._replace(
    keys=GEMMA_KEYS
    | {
        # The first config.json files said "gelu" and meant the tanh form.
        "hidden_act": Key("activation", str, TANH, {"gelu": TANH, TANH: TANH}),
        "hidden_activation": only(TANH),
    },
    inert=INERT,
    facts=GEMMA_FACTS,
    backbone="GemmaModel",
    language_model="GemmaForCausalLM",
)

GEMMA2 = LLAMA._replace(
    keys={name: key for name, key in GEMMA_KEYS.items() if name != "hidden_act"}
    | LAYER_TYPE_KEYS
    | {
        "sliding_window": LAYER_TYPE_KEYS["sliding_window"]._replace(also=("sliding_window_size",)),
        "hidden_activation": Key("activation", str, TANH, GATES),
        "query_pre_attn_scalar": Key("scale_dim", NUMBER, 256),
        "attn_logit_softcapping": Key("softcap", NUMBER_OR_NULL, 50.0),
        "final_logit_softcapping": Key("logit_softcap", NUMBER_OR_NULL, 30.0),
    },
    inert=INERT | {"hidden_act", "cache_implementation"},
    facts=GEMMA_FACTS | {"norm_place": "sandwich", "full_every": 2},
    names=BACKBONE
    | places({
        "layers/*/attn_out_norm": "model.layers.*.post_attention_layernorm",
        "layers/*/mlp_norm": "model.layers.*.pre_feedforward_layernorm",
        "layers/*/mlp_out_norm": "model.layers.*.post_feedforward_layernorm",
    }),
    backbone="Gemma2Model",
    language_model="Gemma2ForCausalLM",
)

GEMMA3 = GEMMA2._replace(
    keys=GEMMA2.keys
    | {
        "rope_local_base_freq": Key("sliding_theta", NUMBER, 10000.0),
        "sliding_window_pattern": Key("full_every", int, 6, also=("_sliding_window_pattern",)),
        # transformers, our oracle, leaves it out of the computation.
        "attn_logit_softcapping": unsupported(),
        "final_logit_softcapping": Key("logit_softcap", NUMBER, None),
    },
    facts=GEMMA_FACTS | {"norm_place": "sandwich", "qk_norm": True, "default_theta": 1000000.0},
    backbone="Gemma3TextModel",
    language_model="Gemma3ForCausalLM",
)

COHERE = LLAMA._replace(
    keys=GATED_KEYS
    | BIAS_KEY
    | {
        "layer_norm_eps": Key("norm_eps", NUMBER, 1e-5),
        "tie_word_embeddings": Key("tied", bool, True),
        "logit_scale": Key("logit_scale", NUMBER, 0.0625),
        "use_qk_norm": Key("qk_norm", bool, False),
    },
    inert=INERT | {"model_max_length"},
    facts={
        "norm_kind": "layer",
        "gated": True,
        "parallel": True,
        "shared_norm": True,
        "qk_norm_over": "each",
        "interleaved": True,
        "default_theta": 500000.0,
    },
    backbone="CohereModel",
    language_model="CohereForCausalLM",
)

COHERE2 = COHERE._replace(
    keys=COHERE.keys
    | LAYER_TYPE_KEYS
    | {
        "sliding_window_pattern": Key("full_every", int, 4, also=("layer_switch",)),
        "order_of_interleaved_layers": only("local_attn_first"),
        "position_embedding_type": only("rope_gptj"),
        "rotary_pct": only(1.0),
        "use_gated_activation": only(value=True),
        "use_parallel_block": only(value=True),
    },
    inert=COHERE.inert
    | {"cache_implementation", "use_embedding_sharing", "use_parallel_embedding"},
    facts=COHERE.facts | {"sliding_only": True, "default_theta": 10000.0},
    backbone="Cohere2Model",
    language_model="Cohere2ForCausalLM",
)

INPUT_NORMS = ("layers/*/attn_norm", "layers/*/mlp_norm")

OLMO2 = LLAMA._replace(
    keys=GATED_KEYS | BIAS_KEY | {"rms_norm_eps": Key("norm_eps", NUMBER, 1e-5)},
    inert=INERT,
    facts=RMS | {"norm_place": "out", "qk_norm": True, "qk_norm_over": "all"},
    names={ours: place for ours, place in BACKBONE.items() if ours not in INPUT_NORMS}
    | places({
        "layers/*/attn_out_norm": "model.layers.*.post_attention_layernorm",
        "layers/*/mlp_out_norm": "model.layers.*.post_feedforward_layernorm",
    }),
    backbone="Olmo2Model",
    language_model="Olmo2ForCausalLM",
)

PHI3 = LLAMA._replace(
    keys=GATED_KEYS
    | dropped("resid_pdrop", "residual", rate=0.0)
    | {
        "sliding_window": Key("window", int, None),
        "rms_norm_eps": Key("norm_eps", NUMBER, 1e-5),
        "original_max_position_embeddings": Key("original_positions", int, 4096),
        "attention_bias": only(value=False),
        "mlp_bias": only(value=False),
        "lm_head_bias": only(value=False),
        "full_attn_mod": only(1),
        "interpolate_factor": only(1),
    },
    # Its code is in transformers by now, and drops no embeddings, whatever embd_pdrop says; the
    # older code that auto_map names is never run.
    inert=INERT | {"auto_map", "embd_pdrop"},
    names=BACKBONE
    | {
        f"layers/*/attn/{p}": Place("model.layers.*.self_attn.qkv_proj", fused="rows")
        for p in "qkv"
    }
    | {
        f"layers/*/mlp/{p}": Place("model.layers.*.mlp.gate_up_proj", fused="rows")
        for p in ("gate", "up")
    },
    backbone="Phi3Model",
    language_model="Phi3ForCausalLM",
)
