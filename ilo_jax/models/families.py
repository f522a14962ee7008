"""One row per Hugging Face `model_type`: its config keys, our mechanisms, its weight names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ilo_jax.models.config import (
    Config,
    DecoderConfig,
    EncoderConfig,
    Key,
    Llama3Scaling,
    Rope,
    read_keys,
)

INERT = frozenset(
    """_attn_implementation_autoset _name_or_path architectures bos_token_id chunk_size_feed_forward
    classifier_dropout dtype eos_token_id gradient_checkpointing id2label initializer_range label2id
    max_length model_type output_attentions output_hidden_states pad_token_id pretraining_tp
    problem_type return_dict torch_dtype transformers.js_config transformers_version use_cache
    attention_dropout attention_probs_dropout_prob hidden_dropout_prob mlp_dropout
    sep_token_id cls_token_id""".split()
)
"""Keys that change no hidden state at inference, in any family."""


class Family(NamedTuple):
    """How one Hugging Face model type is read."""

    keys: Mapping[str, Key]
    """The keys of config.json that decide a number."""
    inert: frozenset[str]
    """The keys that decide none."""
    config: Callable[[dict[str, Any]], Config]
    """From the values of `keys` to our mechanisms."""
    weights: Callable[[Config], dict[str, str]]
    """From our parameter path to the tensor's name in a checkpoint with a task head."""
    prefix: str
    """What a checkpoint of the bare backbone leaves out of those names."""
    ignored: Callable[[Config], tuple[str, ...]]
    """Patterns of tensors (full match) that are derived from others or that we do not use."""


def _rope(values: dict[str, Any]) -> Rope:
    """Read the rotary keys in the old (theta and scaling) and the new (parameters) spelling."""
    theta = values["rope_theta"]
    old = {} if theta is None else {"rope_theta": theta}
    raw: dict[str, Any] = {}
    for spelling in (old, values["rope_scaling"], values["rope_parameters"]):
        for key, value in spelling.items():
            name = "rope_type" if key == "type" else key
            if raw.setdefault(name, value) != value:
                raise ValueError(f"config.json gives {name} as {raw[name]!r} and as {value!r}")
    rope_type = raw.get("rope_type", "default")
    keys = {
        "rope_theta": Key((int, float), 10000.0),
        "rope_type": Key(str, "default", ("default", "llama3")),
    }
    if rope_type == "llama3":
        keys |= {
            "factor": Key((int, float)),
            "low_freq_factor": Key((int, float)),
            "high_freq_factor": Key((int, float)),
            "original_max_position_embeddings": Key(int),
        }
    read = read_keys(raw, keys, inert=(), where="rope_parameters of config.json")
    if rope_type == "default":
        return Rope(theta=float(read["rope_theta"]), scaling=None)
    return Rope(
        theta=float(read["rope_theta"]),
        scaling=Llama3Scaling(
            factor=float(read["factor"]),
            low_freq_factor=float(read["low_freq_factor"]),
            high_freq_factor=float(read["high_freq_factor"]),
            original_positions=read["original_max_position_embeddings"],
        ),
    )


def _llama_config(values: dict[str, Any]) -> DecoderConfig:
    heads = values["num_attention_heads"]
    return DecoderConfig(
        vocab=values["vocab_size"],
        dim=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values["num_key_value_heads"] or heads,
        head_dim=values["head_dim"] or values["hidden_size"] // heads,
        mlp_dim=values["intermediate_size"],
        activation=values["hidden_act"],
        norm_eps=float(values["rms_norm_eps"]),
        max_positions=values["max_position_embeddings"],
        rope=_rope(values),
        attention_bias=values["attention_bias"],
        mlp_bias=values["mlp_bias"],
        head=_llama_head(values),
    )


def _llama_head(values: dict[str, Any]) -> str:
    if values["architectures"] == ["LlamaModel"]:
        return "none"
    return "tied" if values["tie_word_embeddings"] else "own"


def _linear(ours: str, theirs: str, *, bias: bool) -> dict[str, str]:
    names = {f"{ours}/kernel": f"{theirs}.weight"}
    return names | ({f"{ours}/bias": f"{theirs}.bias"} if bias else {})


def _llama_weights(config: Config) -> dict[str, str]:
    assert isinstance(config, DecoderConfig)
    names = {"embed/embedding": "model.embed_tokens.weight", "norm/scale": "model.norm.weight"}
    names |= {"head/kernel": "lm_head.weight"} if config.head == "own" else {}
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"model.layers.{i}"
        for proj in "qkvo":
            names |= _linear(
                f"{ours}/attn/{proj}", f"{theirs}.self_attn.{proj}_proj", bias=config.attention_bias
            )
        for proj in ("gate", "up", "down"):
            names |= _linear(
                f"{ours}/mlp/{proj}", f"{theirs}.mlp.{proj}_proj", bias=config.mlp_bias
            )
        names[f"{ours}/attn_norm/scale"] = f"{theirs}.input_layernorm.weight"
        names[f"{ours}/mlp_norm/scale"] = f"{theirs}.post_attention_layernorm.weight"
    return names


def _llama_ignored(config: Config) -> tuple[str, ...]:
    assert isinstance(config, DecoderConfig)
    derived = (r".*\.rotary_emb\.inv_freq",)
    return derived if config.head == "own" else (*derived, r"lm_head\.weight")


LLAMA = Family(
    keys={
        "architectures": Key(list, None),
        "vocab_size": Key(int),
        "hidden_size": Key(int),
        "num_hidden_layers": Key(int),
        "num_attention_heads": Key(int),
        "num_key_value_heads": Key(int, None),
        "head_dim": Key(int, None),
        "intermediate_size": Key(int),
        "hidden_act": Key(str, "silu", ("silu",)),
        "rms_norm_eps": Key((int, float), 1e-6),
        "max_position_embeddings": Key(int),
        "rope_theta": Key((int, float), None),
        "rope_scaling": Key(dict, {}),
        "rope_parameters": Key(dict, {}),
        "rope_interleaved": Key(bool, False, (False,)),
        "attention_bias": Key(bool, False),
        "mlp_bias": Key(bool, False),
        "tie_word_embeddings": Key(bool, False),
    },
    inert=INERT | {"is_llama_config"},
    config=_llama_config,
    weights=_llama_weights,
    prefix="model.",
    ignored=_llama_ignored,
)


def _bert_config(values: dict[str, Any]) -> EncoderConfig:
    return EncoderConfig(
        vocab=values["vocab_size"],
        dim=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        mlp_dim=values["intermediate_size"],
        activation=values["hidden_act"],
        norm_eps=float(values["layer_norm_eps"]),
        max_positions=values["max_position_embeddings"],
        token_types=values["type_vocab_size"],
    )


def _norm(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}/scale": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}


def _bert_weights(config: Config) -> dict[str, str]:
    names = {
        "embed/embedding": "bert.embeddings.word_embeddings.weight",
        "position_embed/embedding": "bert.embeddings.position_embeddings.weight",
        "type_embed/embedding": "bert.embeddings.token_type_embeddings.weight",
    } | _norm("embed_norm", "bert.embeddings.LayerNorm")
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"bert.encoder.layer.{i}"
        for proj, name in (("q", "query"), ("k", "key"), ("v", "value")):
            names |= _linear(f"{ours}/attn/{proj}", f"{theirs}.attention.self.{name}", bias=True)
        names |= _linear(f"{ours}/attn/o", f"{theirs}.attention.output.dense", bias=True)
        names |= _norm(f"{ours}/attn_norm", f"{theirs}.attention.output.LayerNorm")
        names |= _linear(f"{ours}/mlp/up", f"{theirs}.intermediate.dense", bias=True)
        names |= _linear(f"{ours}/mlp/down", f"{theirs}.output.dense", bias=True)
        names |= _norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm")
    return names


BERT = Family(
    keys={
        "vocab_size": Key(int),
        "hidden_size": Key(int),
        "num_hidden_layers": Key(int),
        "num_attention_heads": Key(int),
        "intermediate_size": Key(int),
        "hidden_act": Key(str, "gelu", ("gelu",)),
        "layer_norm_eps": Key((int, float), 1e-12),
        "max_position_embeddings": Key(int),
        "type_vocab_size": Key(int, 2),
        "position_embedding_type": Key(str, "absolute", ("absolute",)),
        "is_decoder": Key(bool, False, (False,)),
        "add_cross_attention": Key(bool, False, (False,)),
    },
    inert=INERT | {"tie_word_embeddings", "cross_attention_hidden_size"},
    config=_bert_config,
    weights=_bert_weights,
    prefix="bert.",
    ignored=lambda _: (
        r"(bert\.)?embeddings\.position_ids",
        r"(bert\.)?pooler\.dense\.(weight|bias)",
        r"(cls|classifier|qa_outputs)\..*",
    ),
)

FAMILIES = {"bert": BERT, "llama": LLAMA}
"""Every model type that we read."""


def family_of(raw: Mapping[str, Any]) -> Family:
    """Return the family of a parsed config.json.

    Raises:
        ValueError: for a model type that we do not read, or one that needs remote code.
    """
    if "auto_map" in raw:
        raise ValueError(
            "config.json has auto_map: its model needs remote code, which is never run"
        )
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"model_type must be one of {sorted(FAMILIES)}, got {model_type!r}")
    return FAMILIES[model_type]


def read_config(raw: Mapping[str, Any]) -> Config:
    """Return our configuration of a parsed Hugging Face config.json.

    Raises:
        ValueError: for an unknown model type, and for any key that is unknown,
            missing, mistyped or has a value that we do not compute.
    """
    family = family_of(raw)
    where = f"config.json of model_type {raw['model_type']!r}"
    return family.config(read_keys(raw, family.keys, inert=family.inert, where=where))
