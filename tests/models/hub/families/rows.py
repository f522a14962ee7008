"""A small config.json of every model type, for its own tests and those of all."""

from typing import Any

TANH = "gelu_pytorch_tanh"
GELUS = ["gelu", "gelu_fast", "gelu_new", TANH, "relu", "silu"]
"""Activations of plain MLPs."""
GATES = ["silu", "gelu", TANH]
"""Activations of gated MLPs."""
LONG: dict[str, Any] = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}

BERT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
LLAMA = BERT
KV = {"num_key_value_heads": 2}

SMALLEST: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "cohere": LLAMA,
    "cohere2": LLAMA,
    "distilbert": {
        "vocab_size": 64,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 128,
    },
    "gemma": LLAMA | KV,
    "gemma2": LLAMA | KV,
    "gemma3_text": LLAMA | KV,
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": BERT | {"intermediate_size": 128},
    "llama": LLAMA,
    "mistral": LLAMA | KV,
    "olmo2": LLAMA,
    "opt": {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 128,
        "max_position_embeddings": 128,
    },
    "phi3": LLAMA,
    "qwen2": LLAMA | KV,
    "qwen3": LLAMA | KV,
    "roberta": BERT,
    "xglm": {
        "vocab_size": 64,
        "d_model": 32,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 128,
        "max_position_embeddings": 128,
    },
    "xlm-roberta": BERT,
}
"""The keys that no config.json of a model type goes without, the vocabulary and the width first."""

CHOSEN: dict[str, dict[str, Any]] = {
    "cohere": KV | {"use_qk_norm": True},
    "cohere2": KV | {"sliding_window": 9, "layer_switch": 2, "logit_scale": 0.25},
    "gemma": {"head_dim": 8, "hidden_activation": TANH},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 16, "sliding_window": 9},
    "gemma3_text": {"head_dim": 8, "sliding_window": 9, "sliding_window_pattern": 2},
    "llama": KV,
    "mistral": {"sliding_window": 9},
    "olmo2": KV | {"attention_bias": True},
    "phi3": KV
    | {
        "sliding_window": 9,
        "original_max_position_embeddings": 64,
        "rope_scaling": {"type": "su", "attention_factor": 1.5, **LONG},
    },
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {"sliding_window": 9},
}
"""What else ours say, to show what sets their family apart."""

RAW: dict[str, dict[str, Any]] = {
    model_type: {"model_type": model_type} | smallest | CHOSEN.get(model_type, {})
    for model_type, smallest in SMALLEST.items()
}
