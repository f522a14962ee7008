"""Tiny models of every family: their configs, and new weights for them."""

import copy
from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertModel,
    BloomForCausalLM,
    Cohere2ForCausalLM,
    CohereForCausalLM,
    DistilBertForMaskedLM,
    DistilBertModel,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    GemmaForCausalLM,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    LlamaModel,
    MistralForCausalLM,
    Olmo2ForCausalLM,
    OPTForCausalLM,
    Phi3ForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    RobertaForMaskedLM,
    RobertaModel,
    XGLMForCausalLM,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)
from transformers.pytorch_utils import Conv1D

TOLERANCE = 2e-5
"""Of the largest reference value, or of 1 if that is larger: the bound of every parity test."""

VOCAB = 64
POSITIONS = 64
WINDOW = 7
# Large enough that a model without it, or with another, is off.
EPS = 1e-3

# The defaults of many families lie beyond VOCAB.
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "attn_implementation": "eager",
}
SIZES: dict[str, Any] = COMMON | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}

ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 500.0}
LINEAR = ROPE | {"rope_type": "linear", "factor": 4.0}
DYNAMIC = ROPE | {"rope_type": "dynamic", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Both have so small a theta that some frequencies lie inside the ramp.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_MSCALE = {
    "rope_type": "yarn",
    "rope_theta": 20.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
    "beta_fast": 4.0,
    "beta_slow": 2.0,
    "truncate": False,
}
LONGROPE = ROPE | {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.25, 1.5, 2.0],
    "long_factor": [1.5, 2.5, 4.0, 6.0],
}
LOCAL_GLOBAL = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
}

ROTARY: dict[str, Any] = SIZES | {"rope_parameters": ROPE}
RMS: dict[str, Any] = ROTARY | {"num_key_value_heads": 2, "rms_norm_eps": EPS}
MHA = {"num_key_value_heads": 4}
TIED = {"tie_word_embeddings": True}
LAYERS3 = {"num_hidden_layers": 3}
WINDOWED = {"sliding_window": WINDOW}
ALTERNATING = LAYERS3 | WINDOWED
SANDWICH = ALTERNATING | {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]
}
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}

QWEN: dict[str, Any] = RMS | {"tie_word_embeddings": False}
QWEN3: dict[str, Any] = QWEN | {"head_dim": 8}
QWEN_WINDOW = ALTERNATING | {"use_sliding_window": True, "max_window_layers": 1}
# Its embeddings are multiplied by dim**0.5, so that EPS would be lost in their square.
GEMMA: dict[str, Any] = RMS | {"rms_norm_eps": 32 * EPS, "head_dim": 12, "pad_token_id": 0}
GEMMA2: dict[str, Any] = GEMMA | ALTERNATING | CAPS | {"query_pre_attn_scalar": 20}
GEMMA3: dict[str, Any] = (
    GEMMA
    | SANDWICH
    | {
        "query_pre_attn_scalar": 20,
        "rope_parameters": LOCAL_GLOBAL,
    }
)
COHERE: dict[str, Any] = ROTARY | {
    "num_key_value_heads": 2,
    "layer_norm_eps": EPS,
    "logit_scale": 0.25,
    "pad_token_id": 0,
}
BLOOM: dict[str, Any] = COMMON | {
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 4,
    "layer_norm_epsilon": EPS,
}
XGLM: dict[str, Any] = COMMON | {
    "d_model": 32,
    "num_layers": 2,
    "attention_heads": 4,
    "ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 1,
}
GPT2: dict[str, Any] = COMMON | {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "layer_norm_epsilon": EPS,
}
NEOX: dict[str, Any] = SIZES | {"hidden_size": 64, "layer_norm_eps": EPS}
OPT: dict[str, Any] = COMMON | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
    "word_embed_proj_dim": 32,
    "pad_token_id": 1,
}
POST_NORM = {"do_layer_norm_before": False}
PHI3: dict[str, Any] = RMS | {"original_max_position_embeddings": POSITIONS}
BERT: dict[str, Any] = SIZES | {"layer_norm_eps": EPS, "pad_token_id": 0}
ROBERTA: dict[str, Any] = BERT | {"pad_token_id": 1, "type_vocab_size": 1}
DISTILBERT: dict[str, Any] = COMMON | {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}


def _rotary(share: float) -> dict[str, Any]:
    return {"rope_parameters": ROPE | {"partial_rotary_factor": share}}


VARIANTS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama-mha": (LlamaForCausalLM, RMS | MHA),
    "llama-gqa": (LlamaForCausalLM, RMS),
    "llama-wide": (LlamaForCausalLM, RMS | {"head_dim": 12, "num_key_value_heads": 1}),
    "llama-tied": (LlamaForCausalLM, RMS | TIED),
    "llama-biases": (LlamaForCausalLM, RMS | {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": (LlamaForCausalLM, RMS | {"rope_parameters": LLAMA3, "head_dim": 16}),
    "llama-linear": (LlamaForCausalLM, RMS | {"rope_parameters": LINEAR}),
    "llama-dynamic": (
        LlamaForCausalLM,
        RMS | {"rope_parameters": DYNAMIC, "max_position_embeddings": 16},
    ),
    "llama-yarn": (LlamaForCausalLM, RMS | {"rope_parameters": YARN}),
    "llama-yarn_mscale": (
        LlamaForCausalLM,
        RMS | {"rope_parameters": YARN_MSCALE, "max_position_embeddings": 128, "head_dim": 16},
    ),
    "llama-bare": (LlamaModel, RMS),
    "mistral-window": (MistralForCausalLM, RMS | WINDOWED),
    "mistral-full": (MistralForCausalLM, RMS | {"sliding_window": None, "head_dim": 12}),
    "qwen2-gqa": (Qwen2ForCausalLM, QWEN),
    "qwen2-tied": (Qwen2ForCausalLM, QWEN | TIED),
    "qwen2-window": (Qwen2ForCausalLM, QWEN | QWEN_WINDOW),
    "qwen2-yarn": (Qwen2ForCausalLM, QWEN | {"rope_parameters": YARN}),
    "qwen3-gqa": (Qwen3ForCausalLM, QWEN3),
    "qwen3-biases": (Qwen3ForCausalLM, QWEN3 | {"attention_bias": True}),
    "qwen3-window": (Qwen3ForCausalLM, QWEN3 | QWEN_WINDOW),
    "qwen3-tied": (Qwen3ForCausalLM, QWEN3 | TIED | {"head_dim": 12}),
    "gemma-gqa": (GemmaForCausalLM, GEMMA),
    "gemma-mqa": (GemmaForCausalLM, GEMMA | {"num_key_value_heads": 1}),
    "gemma2-both": (Gemma2ForCausalLM, GEMMA2),
    "gemma2-uncapped": (Gemma2ForCausalLM, GEMMA2 | dict.fromkeys(CAPS)),
    "gemma3_text-mixed": (Gemma3ForCausalLM, GEMMA3),
    "gemma3_text-default_pattern": (
        Gemma3ForCausalLM,
        GEMMA3
        | {
            "hidden_size": 16,
            "num_hidden_layers": 7,
            "intermediate_size": 24,
            "layer_types": None,
        },
    ),
    "gemma3_text-capped": (Gemma3ForCausalLM, GEMMA3 | {"final_logit_softcapping": 4.0}),
    "cohere-mha": (CohereForCausalLM, COHERE | MHA),
    "cohere-qk_norm": (CohereForCausalLM, COHERE | {"use_qk_norm": True}),
    "cohere-biases": (CohereForCausalLM, COHERE | {"attention_bias": True}),
    "cohere2-mixed": (Cohere2ForCausalLM, COHERE | SANDWICH),
    "cohere2-pattern": (Cohere2ForCausalLM, COHERE | WINDOWED | {"num_hidden_layers": 5}),
    "bloom-four": (BloomForCausalLM, BLOOM),
    # The slopes of ALiBi follow another rule where the heads are no power of two.
    "bloom-six": (BloomForCausalLM, BLOOM | {"hidden_size": 24, "n_head": 6}),
    "xglm-scaled": (XGLMForCausalLM, XGLM | {"scale_embedding": True}),
    "xglm-plain": (XGLMForCausalLM, XGLM | {"scale_embedding": False}),
    "gpt2-plain": (GPT2LMHeadModel, GPT2),
    "gpt2-inner": (GPT2LMHeadModel, GPT2 | {"n_inner": 40, "activation_function": "gelu_new"}),
    "gpt2-by_layer": (GPT2LMHeadModel, GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2-unscaled": (GPT2LMHeadModel, GPT2 | {"scale_attn_weights": False}),
    "gpt2-untied": (GPT2LMHeadModel, GPT2 | {"tie_word_embeddings": False}),
    "gpt2-bare": (GPT2Model, GPT2),
    "gpt_neox-quarter": (GPTNeoXForCausalLM, NEOX | _rotary(0.25)),
    "gpt_neox-sequential": (
        GPTNeoXForCausalLM,
        NEOX | _rotary(0.5) | {"use_parallel_residual": False},
    ),
    "gpt_neox-whole": (GPTNeoXForCausalLM, NEOX | _rotary(1.0) | {"attention_bias": False}),
    "gpt_neox-tied": (GPTNeoXForCausalLM, NEOX | _rotary(0.25) | TIED),
    "gpt_neox-gelu_new": (GPTNeoXForCausalLM, NEOX | _rotary(0.25) | {"hidden_act": "gelu_new"}),
    "gpt_neox-gelu_fast": (GPTNeoXForCausalLM, NEOX | _rotary(0.25) | {"hidden_act": "gelu_fast"}),
    "opt-pre": (OPTForCausalLM, OPT),
    "opt-post": (OPTForCausalLM, OPT | POST_NORM),
    "opt-bare_norms": (
        OPTForCausalLM,
        OPT | {"enable_bias": False, "layer_norm_elementwise_affine": False},
    ),
    "opt-projected": (OPTForCausalLM, OPT | POST_NORM | {"word_embed_proj_dim": 16}),
    "olmo2-mha": (Olmo2ForCausalLM, RMS | MHA),
    "olmo2-gqa": (Olmo2ForCausalLM, RMS),
    "olmo2-biases": (Olmo2ForCausalLM, RMS | {"attention_bias": True}),
    "phi3-mha": (Phi3ForCausalLM, PHI3 | MHA),
    "phi3-window": (Phi3ForCausalLM, PHI3 | WINDOWED),
    "phi3-partial": (Phi3ForCausalLM, PHI3 | _rotary(0.5)),
    "phi3-longrope": (
        Phi3ForCausalLM,
        PHI3 | {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
    ),
    "bert-model": (BertModel, BERT),
    "bert-mlm": (BertForMaskedLM, BERT),
    "bert-gelu_new": (BertModel, BERT | {"hidden_act": "gelu_new"}),
    "roberta-model": (RobertaModel, ROBERTA),
    "roberta-mlm": (RobertaForMaskedLM, ROBERTA),
    "xlm-roberta-model": (XLMRobertaModel, ROBERTA),
    "xlm-roberta-mlm": (XLMRobertaForMaskedLM, ROBERTA),
    "distilbert-model": (DistilBertModel, DISTILBERT),
    "distilbert-mlm": (DistilBertForMaskedLM, DISTILBERT),
    "distilbert-two_heads": (DistilBertModel, DISTILBERT | {"n_heads": 2}),
}


def family(variant: str) -> str:
    """Return the model type of a variant."""
    return VARIANTS[variant][0].config_class.model_type


ONE_OF_EACH = list({family(variant): variant for variant in reversed(VARIANTS)}.values())
"""The first variant of every family."""
UNLIKE = """llama-mha qwen3-gqa gemma2-both cohere-mha bloom-four gpt_neox-quarter opt-pre
    bert-model""".split()
"""Of those, variants that are not like each other: every place and kind of norms and positions."""


def slow_but(quick: Collection[str], variants: Iterable[str] = VARIANTS) -> list[Any]:
    """Return the variants as cases of a test, of which only some are not slow."""
    slow = pytest.mark.slow
    return [v if v in quick else pytest.param(v, marks=slow) for v in variants]


def fresh(variant: str) -> Any:
    """Return the torch model of a variant as it starts, the same each time."""
    kind, config = VARIANTS[variant]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        # A config writes its own defaults into the dict of rotary parameters it is given.
        return kind(kind.config_class(**copy.deepcopy(config))).eval()


def perturb(model: nn.Module, *, seed: int) -> None:
    """Draw every parameter anew: far from its start, and large enough to matter.

    Biases and the scales of norms, whatever their shape, keep their start as their mean.
    """
    generator = torch.Generator().manual_seed(seed)
    done = set()
    # Embeddings first: some models list a head that is tied to them before them.
    modules = sorted(model.modules(), key=lambda module: not isinstance(module, nn.Embedding))
    with torch.no_grad():
        for module in modules:
            for name, weight in module.named_parameters(recurse=False):
                if weight in done:
                    continue
                done.add(weight)
                noise = torch.randn(weight.shape, generator=generator)
                if name != "weight" or not isinstance(module, nn.Embedding | nn.Linear | Conv1D):
                    weight.add_(0.3 * noise)
                elif isinstance(module, nn.Embedding):
                    weight.copy_(noise)
                else:
                    fan_in = weight.shape[0 if isinstance(module, Conv1D) else 1]
                    weight.copy_(1.5 * fan_in**-0.5 * noise)
