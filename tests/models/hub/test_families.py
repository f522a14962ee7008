"""Every family against `transformers`: parity, what breaks it, and configs as released."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.models.config import ModelConfig, Norm
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.families import FAMILIES, Family, Place, read_config
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.layers import attention, spans
from ilo_jax.models.parameters import abstract, put, shapes, weights
from ilo_jax.models.rotary import LinearScaling, Llama3Scaling, Rope
from ilo_jax.sharding import make_mesh
from tests.models.variants import (
    ONE_OF_EACH,
    TOLERANCE,
    UNLIKE,
    VARIANTS,
    WINDOW,
    family,
    fresh,
    slow_but,
)

CAUGHT = 5 * TOLERANCE
"""How far off a model must be that lacks a mechanism, or has another."""

RELEASED = json.loads((Path(__file__).parents[1] / "released.json").read_text())


@pytest.mark.parametrize("check", ["packed", "padded"])
@pytest.mark.parametrize("variant", slow_but(ONE_OF_EACH))
def test_every_hidden_state_and_the_logits_by_torch(assert_parity, variant, check):
    assert_parity(variant, check)


@pytest.mark.parametrize(
    "variant",
    slow_but(
        ["gemma2-both"],
        ["llama-gqa", "mistral-window", "gemma2-both", "gemma3_text-mixed", "bloom-six"],
    ),
)
def test_rows_cut_up_as_long_ones_are_by_torch(monkeypatch, ours, difference, variant):
    monkeypatch.setattr(spans, "SMALLEST", 12)
    assert difference(variant, ours(variant), "packed") <= TOLERANCE


@pytest.mark.parametrize("variant", slow_but(UNLIKE))
def test_bfloat16_as_exact_as_torch(assert_bfloat16_as_torch, variant):
    assert_bfloat16_as_torch(variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_weight_is_as_it_started(tiny, ours, variant):
    starts = dict(fresh(variant).named_parameters())
    for name, weight in tiny(variant).torch.named_parameters():
        assert (weight != starts[name]).all(), name
    for path, weight in weights(ours(variant)).items():
        assert not np.isin(weight, (0, 1)).any(), path


def test_a_model_starts_the_same_each_time():
    first, second = (fresh("bert-mlm").state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


# Which shapes there are


def test_every_family_has_variants():
    assert {family(variant) for variant in VARIANTS} == set(FAMILIES)
    assert all(variant.startswith(f"{family(variant)}-") for variant in VARIANTS)


def at(value: Any, path: str) -> set[Any]:
    """Return the values at a dotted path of a config, of all its blocks."""
    if isinstance(value, tuple):
        return set().union(*(at(item, path) for item in value))
    name, _, rest = path.partition(".")
    inner = getattr(value, name)
    return at(inner, rest) if rest and inner is not None else {inner}


ATTENTION = "blocks.attention."
SHAPES: dict[str, tuple[str, set[Any]]] = {
    "llama-mha": (ATTENTION + "kv_heads", {4}),
    "llama-gqa": (ATTENTION + "kv_heads", {2}),
    "llama-wide": (ATTENTION + "head_dim", {12}),
    "llama-tied": ("head.kind", {"tied"}),
    "llama-biases": ("blocks.mlp.bias", {True}),
    "llama-bare": ("head.kind", {"none"}),
    "mistral-window": (ATTENTION + "window", {WINDOW}),
    "mistral-full": (ATTENTION + "window", {None}),
    "qwen2-gqa": (ATTENTION + "qkv_bias", {True}),
    "qwen2-window": (ATTENTION + "window", {None, WINDOW}),
    "qwen3-gqa": (ATTENTION + "qk_norm_over", {"head"}),
    "qwen3-tied": (ATTENTION + "head_dim", {12}),
    "gemma-gqa": ("blocks.norm.from_one", {True}),
    "gemma-mqa": (ATTENTION + "kv_heads", {1}),
    "gemma2-both": (ATTENTION + "softcap", {5.0}),
    "gemma2-uncapped": (ATTENTION + "softcap", {None}),
    "gemma3_text-mixed": (ATTENTION + "rope.theta", {100.0, 1000.0}),
    "gemma3_text-default_pattern": (ATTENTION + "window", {None, WINDOW}),
    "gemma3_text-capped": ("head.softcap", {4.0}),
    "cohere-mha": (ATTENTION + "rope.interleaved", {True}),
    "cohere-qk_norm": (ATTENTION + "qk_norm_over", {"each"}),
    "cohere2-mixed": (ATTENTION + "rope.dims", {None, 8}),
    "cohere2-pattern": (ATTENTION + "window", {None, WINDOW}),
    "bloom-four": (ATTENTION + "alibi", {True}),
    "bloom-six": (ATTENTION + "heads", {6}),
    "xglm-scaled": ("embedding.scale", {math.sqrt(32)}),
    "xglm-plain": ("embedding.positions", {"sinusoidal"}),
    "gpt2-plain": ("embedding.positions", {"learned"}),
    "gpt2-by_layer": (ATTENTION + "scale", {8**-0.5, 8**-0.5 / 2}),
    "gpt2-unscaled": (ATTENTION + "scale", {1.0}),
    "gpt2-untied": ("head.kind", {"own"}),
    "gpt2-bare": ("head.kind", {"none"}),
    "gpt_neox-quarter": (ATTENTION + "rope.dims", {4}),
    "gpt_neox-sequential": ("blocks.parallel", {False}),
    "gpt_neox-whole": (ATTENTION + "rope.dims", {16}),
    "gpt_neox-tied": ("head.kind", {"tied"}),
    "opt-pre": ("blocks.norm_place", {"pre"}),
    "opt-post": ("blocks.norm_place", {"post"}),
    "opt-bare_norms": ("blocks.norm.scale", {False}),
    "opt-projected": ("embedding.inner_dim", {16}),
    "olmo2-mha": ("blocks.norm_place", {"out"}),
    "olmo2-gqa": (ATTENTION + "qk_norm_over", {"all"}),
    "phi3-window": (ATTENTION + "window", {WINDOW}),
    "phi3-partial": (ATTENTION + "rope.dims", {4}),
    "bert-model": ("causal", {False}),
    "bert-mlm": ("head.activation", {"gelu"}),
    "roberta-mlm": ("embedding.offset", {2}),
    "xlm-roberta-mlm": ("embedding.offset", {2}),
    "distilbert-model": ("embedding.token_types", {0}),
    "distilbert-two_heads": (ATTENTION + "heads", {2}),
}


@pytest.mark.parametrize("variant", SHAPES)
def test_variants_are_what_they_are_called(ours, variant):
    path, expected = SHAPES[variant]
    assert at(ours(variant).config, path) == expected


# Mechanisms that are not there, or are others

ROPE = ATTENTION + "rope"
SCALING = ROPE + ".scaling"
SHORT, LONG = (1.0, 1.25, 1.5, 2.0), (1.5, 2.5, 4.0, 6.0)


def each(**changes: Any) -> Callable[[tuple], tuple]:
    return lambda blocks: tuple(dataclasses.replace(block, **changes) for block in blocks)


BROKEN: dict[str, tuple[str, str, Any]] = {
    # Rotary positions
    "no rotation": ("llama-gqa", ROPE, None),
    "theta": ("llama-gqa", ROPE + ".theta", 10000.0),
    "theta of full blocks": ("gemma3_text-mixed", ROPE + ".theta", 100.0),
    "theta of blocks with a window": ("gemma3_text-mixed", ROPE + ".theta", 1000.0),
    "scaling of full blocks": ("gemma3_text-mixed", SCALING, None),
    "no scaling of blocks with a window": (
        "gemma3_text-mixed",
        SCALING,
        LinearScaling(factor=8.0),
    ),
    "positions of full blocks": (
        "cohere2-mixed",
        ROPE,
        lambda rope: rope or Rope(theta=500.0, dims=8, interleaved=True),
    ),
    "a quarter of the dims": ("gpt_neox-quarter", ROPE + ".dims", 16),
    "half of the dims": ("gpt_neox-sequential", ROPE + ".dims", 16),
    "half of the dims, fused": ("phi3-partial", ROPE + ".dims", 8),
    "interleaved": ("cohere-mha", ROPE + ".interleaved", False),
    "interleaved, another norm": ("cohere-qk_norm", ROPE + ".interleaved", False),
    "not interleaved": ("llama-gqa", ROPE + ".interleaved", True),
    "linear": ("llama-linear", SCALING, None),
    "dynamic": ("llama-dynamic", SCALING, None),
    "dynamic: positions": ("llama-dynamic", SCALING + ".original_positions", 32),
    "yarn": ("llama-yarn", SCALING, None),
    "yarn: attention factor": ("llama-yarn", SCALING + ".attention_factor", 1.0),
    "yarn: mscale": ("llama-yarn_mscale", SCALING + ".attention_factor", 1.0),
    "yarn: mscale of all dims": (
        "llama-yarn_mscale",
        SCALING + ".attention_factor",
        1 + 0.1 * math.log(4.0),
    ),
    "yarn: ramp": ("llama-yarn_mscale", SCALING + ".truncate", True),
    "yarn: rounded ramp": ("llama-yarn", SCALING + ".truncate", False),
    "yarn: fast": ("llama-yarn_mscale", SCALING + ".beta_fast", 32.0),
    "yarn: slow": ("llama-yarn_mscale", SCALING + ".beta_slow", 1.0),
    "yarn: positions": ("qwen2-yarn", SCALING + ".original_positions", 64),
    "llama3": ("llama-llama3", SCALING, None),
    "llama3: low": ("llama-llama3", SCALING + ".low_freq_factor", 0.5),
    "llama3: high": ("llama-llama3", SCALING + ".high_freq_factor", 8.0),
    "llama3: positions": ("llama-llama3", SCALING + ".original_positions", 128),
    "longrope": ("phi3-longrope", SCALING, None),
    "longrope: short": ("phi3-longrope", SCALING + ".short_factor", LONG),
    "longrope: long": ("phi3-longrope", SCALING + ".long_factor", SHORT),
    "longrope: positions": ("phi3-longrope", SCALING + ".original_positions", 47),
    "longrope: up to the positions": ("phi3-longrope", SCALING + ".original_positions", 17),
    "longrope: attention factor": ("phi3-longrope", SCALING + ".attention_factor", 1.0),
    # Other positions
    "alibi": ("bloom-four", ATTENTION + "alibi", False),
    "sinusoids": ("xglm-plain", "embedding.positions", "none"),
    "first sinusoid": ("xglm-plain", "embedding.offset", 0),
    "learned": ("gpt2-plain", "embedding.positions", "none"),
    "first row of OPT": ("opt-pre", "embedding.offset", 0),
    "first row of RoBERTa": ("roberta-model", "embedding.offset", 1),
    "first row of XLM-R": ("xlm-roberta-model", "embedding.offset", 0),
    # Embedding
    "token types": ("bert-model", "embedding.token_types", 0),
    "token type of RoBERTa": ("roberta-model", "embedding.token_types", 0),
    "projection": ("opt-projected", "embedding.inner_dim", None),
    "scaled embedding": ("gemma-gqa", "embedding.scale", 1.0),
    "scaled embedding of XGLM": ("xglm-scaled", "embedding.scale", 1.0),
    "embedding as it is": ("xglm-plain", "embedding.scale", math.sqrt(32)),
    "embedding norm": ("bert-model", "embedding.norm", None),
    "embedding norm of BLOOM": ("bloom-four", "embedding.norm", None),
    "eps of the embedding norm": ("bert-model", "embedding.norm.eps", 1e-12),
    # Attention
    "causal": ("llama-gqa", "causal", False),
    "both ways": ("bert-model", "causal", True),
    "window": ("mistral-window", ATTENTION + "window", None),
    "window, one less": ("mistral-window", ATTENTION + "window", WINDOW - 1),
    "window, one more": ("mistral-window", ATTENTION + "window", WINDOW + 1),
    "window, fused": ("phi3-window", ATTENTION + "window", None),
    "full blocks first": ("qwen2-window", ATTENTION + "window", WINDOW),
    "every second block full": ("gemma2-both", ATTENTION + "window", WINDOW),
    "every fourth block full": ("cohere2-pattern", ATTENTION + "window", WINDOW),
    "every sixth block full": ("gemma3_text-default_pattern", ATTENTION + "window", WINDOW),
    "which blocks are full": ("gemma3_text-default_pattern", "blocks", lambda b: b[::-1]),
    "which blocks have a window": ("qwen3-window", "blocks", lambda b: b[::-1]),
    "soft-cap": ("gemma2-both", ATTENTION + "softcap", None),
    "scale": ("gemma2-both", ATTENTION + "scale", 12**-0.5),
    "scale of Gemma 3": ("gemma3_text-mixed", ATTENTION + "scale", 12**-0.5),
    "scale by layer": ("gpt2-by_layer", ATTENTION + "scale", 8**-0.5),
    "no scale": ("gpt2-unscaled", ATTENTION + "scale", 8**-0.5),
    "qk-norm of a head": ("qwen3-gqa", ATTENTION + "qk_norm", None),
    "qk-norm of a head over all": ("qwen3-gqa", ATTENTION + "qk_norm_over", "all"),
    "qk-norm of Gemma 3": ("gemma3_text-mixed", ATTENTION + "qk_norm", None),
    "qk-norm from one": ("gemma3_text-mixed", ATTENTION + "qk_norm.from_one", False),
    "qk-norm of each head": ("cohere-qk_norm", ATTENTION + "qk_norm", None),
    "qk-norm of each head shared": ("cohere-qk_norm", ATTENTION + "qk_norm_over", "head"),
    "qk-norm of each head over all": ("cohere-qk_norm", ATTENTION + "qk_norm_over", "all"),
    "qk-norm by the mean square": ("cohere-qk_norm", ATTENTION + "qk_norm.kind", "rms"),
    "qk-norm of all heads": ("olmo2-gqa", ATTENTION + "qk_norm", None),
    "qk-norm of all heads shared": ("olmo2-gqa", ATTENTION + "qk_norm_over", "head"),
    "qk-norm of all heads, each": ("olmo2-gqa", ATTENTION + "qk_norm_over", "each"),
    "eps of the qk-norm": ("qwen3-gqa", ATTENTION + "qk_norm.eps", 1e-6),
    "bias of queries": ("llama-biases", ATTENTION + "qkv_bias", False),
    "bias of queries only": ("qwen2-gqa", ATTENTION + "qkv_bias", False),
    "bias of the output": ("llama-biases", ATTENTION + "out_bias", False),
    "bias of Cohere": ("cohere-biases", ATTENTION + "qkv_bias", False),
    "bias of OLMo 2": ("olmo2-biases", ATTENTION + "out_bias", False),
    # Blocks
    "rms": ("llama-gqa", "blocks.norm.kind", "layer"),
    "rms of OLMo 2": ("olmo2-gqa", "blocks.norm.kind", "layer"),
    "layer norm": ("gpt2-plain", "blocks.norm.kind", "rms"),
    "layer norm of Cohere": ("cohere-mha", "blocks.norm.kind", "rms"),
    "norm from one": ("gemma-gqa", "blocks.norm.from_one", False),
    "norm from zero": ("llama-gqa", "blocks.norm.from_one", True),
    "bias of norms": ("gpt2-plain", "blocks.norm.bias", False),
    "weights of norms": ("opt-pre", "blocks.norm.scale", False),
    "eps": ("llama-gqa", "blocks.norm.eps", 1e-6),
    "eps of layer norms": ("gpt_neox-quarter", "blocks.norm.eps", 1e-5),
    "pre, not post": ("llama-gqa", "blocks.norm_place", "post"),
    "pre, not out": ("llama-gqa", "blocks.norm_place", "out"),
    "pre, not sandwich": ("llama-gqa", "blocks.norm_place", "sandwich"),
    "post, not pre": ("opt-post", "blocks.norm_place", "pre"),
    "post, not pre, of BERT": ("bert-model", "blocks.norm_place", "pre"),
    "out, not pre": ("olmo2-gqa", "blocks.norm_place", "pre"),
    "out, not sandwich": ("olmo2-gqa", "blocks.norm_place", "sandwich"),
    "sandwich, not pre": ("gemma2-both", "blocks.norm_place", "pre"),
    "sandwich, not out": ("gemma3_text-mixed", "blocks.norm_place", "out"),
    "parallel": ("gpt_neox-quarter", "blocks.parallel", False),
    "parallel, one norm": ("cohere-mha", "blocks", each(parallel=False, shared_norm=False)),
    "sequential": ("gpt_neox-sequential", "blocks.parallel", True),
    "shared norm": ("cohere-mha", "blocks.shared_norm", False),
    "no shared norm": ("gpt_neox-quarter", "blocks.shared_norm", True),
    # MLP
    "gate": ("llama-gqa", "blocks.mlp.gated", False),
    "bias of the MLP": ("llama-biases", "blocks.mlp.bias", False),
    "silu": ("llama-gqa", "blocks.mlp.activation", "gelu"),
    "relu": ("opt-pre", "blocks.mlp.activation", "gelu"),
    "gelu": ("bert-model", "blocks.mlp.activation", "gelu_new"),
    "gelu_new": ("gpt2-inner", "blocks.mlp.activation", "gelu"),
    "gelu_new of BERT": ("bert-gelu_new", "blocks.mlp.activation", "gelu"),
    "gelu_fast": ("gpt_neox-gelu_fast", "blocks.mlp.activation", "gelu"),
    "gelu of GPT-NeoX": ("gpt_neox-quarter", "blocks.mlp.activation", "gelu_fast"),
    "gelu_pytorch_tanh": ("gemma-gqa", "blocks.mlp.activation", "gelu"),
    "gelu of BLOOM": ("bloom-four", "blocks.mlp.activation", "gelu"),
    "gelu of XGLM": ("xglm-plain", "blocks.mlp.activation", "relu"),
    # Head
    "final norm": ("llama-gqa", "final_norm", None),
    "no final norm": ("opt-post", "final_norm", Norm(kind="layer", eps=1e-5)),
    "kind of the final norm": ("olmo2-gqa", "final_norm.kind", "layer"),
    "final norm from one": ("gemma-gqa", "final_norm.from_one", False),
    "eps of the final norm": ("llama-gqa", "final_norm.eps", 0.1),
    "tied": ("llama-tied", "head.kind", "own"),
    "own": ("llama-gqa", "head.kind", "tied"),
    "own of GPT-2": ("gpt2-untied", "head.kind", "tied"),
    "scale of logits": ("cohere-mha", "head.scale", 1.0),
    "soft-cap of logits": ("gemma2-both", "head.softcap", None),
    "soft-cap of Gemma 3": ("gemma3_text-capped", "head.softcap", None),
    "dense layer of the head": ("bert-mlm", "head.activation", None),
    "activation of the head": ("distilbert-mlm", "head.activation", "gelu_new"),
    "norm of the head": ("roberta-mlm", "head.norm", None),
    "eps of the head": ("bert-mlm", "head.norm.eps", 1e-12),
    "bias of the head": ("xlm-roberta-mlm", "head.bias", False),
}


def altered(value: Any, path: str, change: Any) -> Any:
    """Return a config with another value at a dotted path, in all its blocks."""
    if not path:
        return change(value) if callable(change) else change
    if isinstance(value, tuple):
        return tuple(altered(item, path, change) for item in value)
    name, _, rest = path.partition(".")
    inner = getattr(value, name)
    if inner is None and rest:
        return value
    return dataclasses.replace(value, **{name: altered(inner, rest, change)})


def fitted(weight: jax.Array | None, like: jax.ShapeDtypeStruct) -> jax.Array:
    if weight is None:
        return jnp.ones_like(like)
    return weight if weight.shape == like.shape else jnp.resize(weight, like.shape)


@pytest.fixture(scope="module")
def rebuilt(ours) -> Callable[..., Any]:
    """Return another model with a variant's weights: those that both have, by their paths.

    A weight of another shape takes what fits, over and over; a new one is of ones.
    """

    def make(variant: str, config: ModelConfig) -> Any:
        given = weights(ours(variant))
        model = abstract(config, dtype=jnp.float32, mesh=ours(variant).mesh)
        put(model, {path: fitted(given.get(path), like) for path, like in shapes(model).items()})
        return model

    return make


@pytest.mark.parametrize("check", ["packed", pytest.param("padded", marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_mechanisms_pass(ours, rebuilt, difference, variant, check):
    """Of every variant; operation by operation, for most programs would be compiled for one."""
    model = rebuilt(variant, ours(variant).config)
    assert difference(variant, model, check, jit=False) <= TOLERANCE


@pytest.mark.parametrize("name", BROKEN)
def test_another_mechanism_is_caught(ours, rebuilt, difference, name):
    variant, path, change = BROKEN[name]
    config = altered(ours(variant).config, path, change)
    assert config != ours(variant).config
    assert difference(variant, rebuilt(variant, config), jit=False) >= CAUGHT


def test_another_grouping_of_queries_is_caught(ours, rebuilt, difference):
    """Query heads that share a key and value are consecutive, not every n-th."""
    model = rebuilt("llama-gqa", ours("llama-gqa").config)
    arrays = weights(model)
    for path, array in arrays.items():
        if path.endswith("attn/q/kernel"):
            arrays[path] = array.reshape(32, 4, 8)[:, jnp.asarray([0, 2, 1, 3])].reshape(32, 32)
        if path.endswith("attn/o/kernel"):
            arrays[path] = array.reshape(4, 8, 32)[jnp.asarray([0, 2, 1, 3])].reshape(32, 32)
    put(model, arrays)
    assert difference("llama-gqa", model, jit=False) >= CAUGHT


def test_another_series_of_slopes_is_caught(ours, difference, monkeypatch):
    """That of a power of two, for six heads."""
    monkeypatch.setattr(
        attention, "alibi_slopes", lambda heads: 2 ** (-8 * np.arange(1, heads + 1) / heads)
    )
    assert difference("bloom-six", ours("bloom-six"), jit=False) >= CAUGHT


def placed(variant: str, **changes: Any) -> Family:
    """Return a variant's family with its fused tensors placed differently."""
    row = FAMILIES[family(variant)]
    names = {
        ours: place._replace(**changes) if place.fused else place
        for ours, place in row.names.items()
    }
    return row._replace(names=names)


def swapped(variant: str, first: str, second: str) -> Family:
    """Return a variant's family with two modules in each other's place."""
    row, exchanged = FAMILIES[family(variant)], {first: second, second: first}
    return row._replace(names={exchanged.get(o, o): place for o, place in row.names.items()})


GPT2_OUT = "layers/*/attn/o"
MISREAD: dict[str, tuple[str, Family]] = {
    "heads of BLOOM": ("bloom-four", placed("bloom-four", fused="rows")),
    "heads of GPT-NeoX": ("gpt_neox-quarter", placed("gpt_neox-quarter", fused="rows")),
    "rows of GPT-2": ("gpt2-plain", placed("gpt2-plain", fused="heads")),
    "rows of Phi-3": ("phi3-mha", placed("phi3-mha", fused="heads")),
    "keys before queries": ("phi3-mha", swapped("phi3-mha", "layers/*/attn/q", "layers/*/attn/k")),
    "values before keys": (
        "phi3-window",
        swapped("phi3-window", "layers/*/attn/k", "layers/*/attn/v"),
    ),
    "up before gate": ("phi3-mha", swapped("phi3-mha", "layers/*/mlp/gate", "layers/*/mlp/up")),
    "norms of a sandwich": (
        "gemma2-both",
        swapped("gemma2-both", "layers/*/mlp_norm", "layers/*/attn_out_norm"),
    ),
    "inputs first": (
        "gpt2-plain",
        FAMILIES["gpt2"]._replace(
            names=FAMILIES["gpt2"].names | {GPT2_OUT: Place("transformer.h.*.attn.c_proj")}
        ),
    ),
}


@pytest.mark.parametrize("name", MISREAD)
def test_another_place_of_weights_is_caught(tiny, difference, monkeypatch, name):
    variant, row = MISREAD[name]
    monkeypatch.setitem(FAMILIES, family(variant), row)
    model = loading.load(open_folder(tiny(variant).folder), mesh=make_mesh(data=1))
    assert difference(variant, model) >= CAUGHT


def test_a_matrix_with_its_inputs_first_has_the_other_shape(tiny, monkeypatch):
    monkeypatch.setitem(FAMILIES, "gpt2", placed("gpt2-plain", inputs_first=False))
    with pytest.raises(ValueError, match=r"c_attn\.weight in .* must have shape \(96, 32\), got"):
        loading.load(open_folder(tiny("gpt2-plain").folder), mesh=make_mesh(data=1))


# Configs as released


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_are_read(name):
    raw = RELEASED[name]
    config = read_config(raw)
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    assert config.layers == next(raw[key] for key in names if key in raw)
    assert config.vocab == raw["vocab_size"]


def test_every_family_is_released():
    assert {raw["model_type"] for raw in RELEASED.values()} == set(FAMILIES)


def released(name: str) -> ModelConfig:
    return read_config(RELEASED[name])


def test_llama_31():
    config = released("meta-llama/Llama-3.1-8B")
    scaling = Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=8192
    )
    assert at(config, ROPE) == {Rope(theta=500000.0, dims=128, scaling=scaling)}
    assert at(config, ATTENTION + "kv_heads") == {8}
    assert config.max_positions == 131072
    assert config.head.kind == "own"


def test_gemma_3():
    config = released("google/gemma-3-1b-pt")
    kinds = [block.attention for block in config.blocks]
    assert [kind.window for kind in kinds] == ([512] * 5 + [None]) * 4 + [512] * 2
    assert {(kind.window, kind.rope and kind.rope.theta) for kind in kinds} == {
        (512, 10000.0),
        (None, 1000000.0),
    }
    assert at(config, ATTENTION + "kv_heads") == {1}
    assert at(config, ATTENTION + "scale") == {1 / 16}
    assert config.embedding.scale == pytest.approx(math.sqrt(1152))


def test_gemma_2():
    config = released("google/gemma-2-2b")
    assert [block.attention.window for block in config.blocks] == [4096, None] * 13
    assert at(config, ATTENTION + "softcap") == {50.0}
    assert config.head.softcap == 30.0
    assert at(config, "blocks.norm_place") == {"sandwich"}


def test_aya_expanse():
    config = released("CohereLabs/aya-expanse-8b")
    assert at(config, "blocks.shared_norm") == at(config, "blocks.parallel") == {True}
    assert at(config, ROPE) == {Rope(theta=10000.0, dims=128, interleaved=True)}
    assert (config.head.kind, config.head.scale) == ("tied", 0.125)
    assert at(config, "blocks.norm") == {Norm(kind="layer", eps=1e-5)}


def test_command_r7b():
    config = released("CohereLabs/c4ai-command-r7b-12-2024")
    kinds = [block.attention for block in config.blocks]
    assert [kind.window for kind in kinds] == [4096, 4096, 4096, None] * 8
    assert all((kind.rope is None) == (kind.window is None) for kind in kinds)
    assert at(config, ROPE) == {None, Rope(theta=50000.0, dims=128, interleaved=True)}


def test_pythia():
    config = released("EleutherAI/pythia-70m")
    assert at(config, ROPE) == {Rope(theta=10000.0, dims=16)}
    assert at(config, ATTENTION + "head_dim") == {64}
    assert at(config, "blocks.parallel") == {True}
    assert at(config, "blocks.shared_norm") == {False}


def test_xlm_roberta():
    config = released("FacebookAI/xlm-roberta-base")
    assert config.max_positions == 512
    assert (config.embedding.rows, config.embedding.offset) == (514, 2)
    assert not config.causal


def test_bloom():
    config = released("bigscience/bloom-560m")
    assert at(config, ATTENTION + "alibi") == {True}
    assert at(config, ATTENTION + "heads") == {16}
    assert config.max_positions is None


def test_phi_3_long():
    config = released("microsoft/Phi-3-mini-128k-instruct")
    (scaling,) = at(config, SCALING)
    assert scaling.original_positions == 4096
    assert scaling.attention_factor == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    assert len(scaling.short_factor) == len(scaling.long_factor) == 48


def test_a_soft_cap_that_transformers_leaves_out_is_refused():
    raw = RELEASED["google/gemma-3-1b-pt"] | {"attn_logit_softcapping": 50.0}
    message = "attn_logit_softcapping: must be null, got 50.0"
    with pytest.raises(ValueError, match=r"^cannot read config.json of .*:\n") as error:
        read_config(raw)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [message]
