"""What a row says of one Hugging Face model type, and the rows of keys that families share."""

from collections.abc import Mapping
from types import NoneType
from typing import Any, NamedTuple

from ilo_jax.models.hub.families.reading import NUMBER, Key, names_of, only

PLAIN = ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
"""Activations of plain MLPs."""
GATES = ("silu", "gelu", "gelu_pytorch_tanh")
"""Activations of gated MLPs."""

INERT = frozenset(
    """_attn_implementation_autoset _flash_attn_2_enabled _name_or_path _num_labels
    architectures attn_implementation bos_token_id chunk_size_feed_forward
    classifier_dropout dtype eos_token_id finetuning_task
    gradient_checkpointing id2label label2id max_length
    model_type output_attentions output_hidden_states output_past pad_token_id pretraining_tp
    problem_type return_dict tokenizer_class task_specific_params torch_dtype
    transformers.js_config transformers_version use_cache
    attention_dropout attention_probs_dropout_prob hidden_dropout hidden_dropout_prob mlp_dropout
    sep_token_id cls_token_id mask_token_id unk_token_id""".split()
)
"""Keys that change no hidden state at inference, in any family."""


CHECKED = {
    "is_encoder_decoder": only(value=False),
    "initializer_range": Key("init_std", NUMBER, 0.02),
}
"""Keys that every family reads alike."""

# transformers takes null for false, and false for a model that sees what comes after.
CAUSAL = {"is_causal": Key("", (bool, NoneType), True, (True,))}
"""The key of every decoder."""

MAX_POSITIONS = {
    "max_position_embeddings": Key(
        "max_positions", int, instead=("max_sequence_length", "max_seq_length", "max_seq_len")
    )
}
"""The key of rotary positions, which later ones than the first names outrank."""


def dropped(name: str, places: str, *, rate: float) -> dict[str, Key]:
    """The key of a dropout, of one or more of `config.Dropout`'s places.

    Args:
        name: Of the key.
        places: Separated by spaces.
        rate: Where the key is absent.
    """
    facts = " ".join(f"drop_{place}" for place in places.split())
    return {name: Key(facts, NUMBER, rate)}


class Place(NamedTuple):
    """Where one of our modules is in a checkpoint."""

    module: str
    """Its name there, "*" for the number of the block."""
    fused: str = ""
    """How it shares its rows with the other modules of that name, in the order of the
    table: one after the other ("rows") or head by head ("heads")."""
    inputs_first: bool = False
    """Whether the matrix is stored [in, out] (GPT-2), not [out, in]."""


class Family(NamedTuple):
    """How one Hugging Face model type is read: a row of data, no code of its own."""

    keys: dict[str, Key]
    """The keys of config.json that decide a number."""
    inert: frozenset[str]
    """The keys that decide none."""
    facts: dict[str, Any]
    """What holds for every model of the family; see `families.facts.Facts`."""
    names: dict[str, Place]
    """From our modules to those of a checkpoint with a task head."""
    prefix: str
    """What a checkpoint of the bare backbone leaves out of those names."""
    ignored: tuple[str, ...]
    """Patterns of tensors (full match) that are derived from others or that we do not use."""
    backbone: str
    """What transformers calls it without a head, in a config.json's `architectures`."""
    language_model: str
    """What transformers calls it with its head: causal, or masked if it is an encoder."""
    older: Mapping[str, str] = {}
    """Endings of tensor names, and what checkpoints of older days have instead."""

    @property
    def known(self) -> set[str]:
        """All names of keys that a row has."""
        return names_of(self.keys) | self.inert


def places(names: Mapping[str, str]) -> dict[str, Place]:
    """The places of modules that share nothing."""
    return {ours: Place(theirs) for ours, theirs in names.items()}


ROTARY_KEYS = {
    "rope_theta": Key("rope_theta", NUMBER, None),
    "rope_scaling": Key("rope_scaling", dict, {}),
    "rope_parameters": Key("rope_parameters", dict, {}),
    "partial_rotary_factor": Key("rotary_fraction", NUMBER, None),
}

GATED_KEYS = (
    ROTARY_KEYS
    | CHECKED
    | CAUSAL
    | MAX_POSITIONS
    | dropped("attention_dropout", "attention", rate=0.0)
    | {
        "architectures": Key("architectures", list, None),
        "vocab_size": Key("vocab", int),
        "hidden_size": Key("dim", int),
        "num_hidden_layers": Key("layers", int),
        "num_attention_heads": Key("heads", int),
        "num_key_value_heads": Key("kv_heads", int, None),
        "head_dim": Key("head_dim", int, None),
        "intermediate_size": Key("mlp_dim", int),
        "hidden_act": Key("activation", str, "silu", GATES),
        "tie_word_embeddings": Key("tied", bool, False),
    }
)
"""Keys of decoders with rotary positions and a gated MLP."""

RMS_KEY = {"rms_norm_eps": Key("norm_eps", NUMBER, 1e-6)}
KV_KEY = {"num_key_value_heads": Key("kv_heads", (int, NoneType))}
"""Where its absence would mean some number, which no checkpoint relies on."""
BIAS_KEY = {"attention_bias": Key("qkv_bias out_bias", bool, False)}

LAYER_TYPE_KEYS = {
    "sliding_window": Key("window", (int, NoneType), 4096),
    "layer_types": Key("layer_types", list, None),
}
"""Keys of decoders whose blocks alternate between a window and the whole."""

BACKBONE = places(
    {
        "embed/tokens": "model.embed_tokens",
        "norm": "model.norm",
        "head/out": "lm_head",
        "layers/*/attn_norm": "model.layers.*.input_layernorm",
        "layers/*/mlp_norm": "model.layers.*.post_attention_layernorm",
        "layers/*/attn/q_norm": "model.layers.*.self_attn.q_norm",
        "layers/*/attn/k_norm": "model.layers.*.self_attn.k_norm",
    }
    | {f"layers/*/attn/{p}": f"model.layers.*.self_attn.{p}_proj" for p in "qkvo"}
    | {f"layers/*/mlp/{p}": f"model.layers.*.mlp.{p}_proj" for p in ("gate", "up", "down")}
)
"""The names that Llama gave, and that most decoders took over."""

OTHER_HEADS = r"(score|qa_outputs)\.(weight|bias)"
"""Tensors of classifiers and question answering."""

INV_FREQ = r".*\.rotary_emb\.inv_freq"
"""Rotary frequencies, which old checkpoints hold and config.json decides."""

NO_CROSS_ATTENTION = {"add_cross_attention": only(value=False)}
