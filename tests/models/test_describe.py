import json
from pathlib import Path

import pytest

from ilo_jax.models.describe import describe
from ilo_jax.models.hub.families import read_config

RELEASED = json.loads((Path(__file__).parent / "released.json").read_text())
EXPECTED = {
    "meta-llama/Llama-3.1-8B": {
        "attention": "grouped-query (32/8 of 128)",
        "positions": "RoPE 500000, llama3",
        "norms": "RMSNorm, pre, eps 1e-05",
        "mlp": "gated silu, 14336 wide",
        "embedding": "128256 tokens",
        "head": "its own matrix",
    },
    "google/gemma-2-2b": {
        "attention": "grouped-query (8/4 of 256), windows 4096 and all, soft-cap 50",
        "norms": "RMSNorm, sandwich, weights from one, eps 1e-06",
        "embedding": "256000 tokens, scaled by 48",
        "head": "tied to the embedding, soft-cap 30",
    },
    "google/gemma-3-1b-pt": {
        "attention": "multi-query (4/1 of 256), windows 512 and all, qk-norm of each head",
        "positions": "RoPE 10000 and RoPE 1e+06",
    },
    "CohereLabs/c4ai-command-r7b-12-2024": {
        "positions": "RoPE 50000, interleaved and none",
        "norms": "LayerNorm, pre, parallel, one norm, eps 1e-05",
        "head": "tied to the embedding, scale 0.25",
    },
    "EleutherAI/pythia-1.4b": {
        "attention": "multi-head (16/16 of 128), biases on qkv and out",
        "positions": "RoPE 10000, 32 of 128 dims",
        "norms": "LayerNorm, pre, bias, parallel, eps 1e-05",
        "mlp": "gelu, 8192 wide, biases",
    },
    "bigscience/bloom-560m": {"positions": "ALiBi", "embedding": "250880 tokens, normed"},
    "facebook/opt-350m": {
        "positions": "learned, from row 2",
        "norms": "LayerNorm, post, bias, eps 1e-05",
        "embedding": "50272 tokens, 512 wide, projected",
    },
    "facebook/xglm-564M": {"positions": "sinusoidal, from row 2"},
    "openai-community/gpt2": {"positions": "learned"},
    "FacebookAI/xlm-roberta-base": {"head": "tied to the embedding, after a dense layer"},
    "intfloat/multilingual-e5-small": {"head": "none"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_released_models_in_words(name):
    words = describe(read_config(RELEASED[name]))
    assert {key: words[key] for key in EXPECTED[name]} == EXPECTED[name]


def test_blocks_say_how_many_and_which_way():
    decoder, encoder = (
        describe(read_config(RELEASED[name]))["blocks"]
        for name in ("meta-llama/Llama-3.1-8B", "FacebookAI/xlm-roberta-base")
    )
    assert decoder == "32, 4096 wide, causal"
    assert encoder.startswith("12, 768 wide, ")
    assert "causal" not in encoder


def test_every_released_model_has_the_same_headings():
    headings = {tuple(describe(read_config(raw))) for raw in RELEASED.values()}
    assert headings == {("blocks", "attention", "positions", "norms", "mlp", "embedding", "head")}


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"query_pre_attn_scalar": 100}, "attention", "scale 0.1"),
        ({"tie_word_embeddings": False}, "head", "its own matrix, soft-cap 30"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "positions", "RoPE 10000, linear"),
        ({"attention_bias": True}, "attention", "biases on qkv and out"),
    ],
)
def test_what_is_unusual_is_said(change, key, words):
    raw = RELEASED["google/gemma-2-2b"]
    assert words in describe(read_config(raw | change))[key]
    assert words not in describe(read_config(raw))[key]


def test_norms_without_weights_are_said():
    raw = RELEASED["facebook/opt-125m"] | {"layer_norm_elementwise_affine": False}
    assert "no weights" in describe(read_config(raw))["norms"]
