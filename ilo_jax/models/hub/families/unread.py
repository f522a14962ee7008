"""Keys of a config.json that no number depends on, though no family's row has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ilo_jax.models.hub.families import rotary
from ilo_jax.models.hub.families.family import Family
from ilo_jax.refusals import refuse

GENERATION = frozenset(
    """assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight
    assistant_lookbehind bad_words_ids begin_suppress_tokens cache_config cache_implementation
    compile_config constraints continuous_batching_config decoder_start_token_id disable_compile
    diversity_penalty do_sample dola_layers early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty
    force_words_ids forced_bos_token_id forced_decoder_ids forced_eos_token_id guidance_scale
    is_assistant length_penalty low_memory max_cache_len max_length max_matching_ngram_size
    max_new_tokens max_time min_length min_new_tokens min_p no_repeat_ngram_size
    num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
    num_return_sequences output_logits output_scores penalty_alpha prefill_chunk_size
    prompt_lookup_num_tokens remove_invalid_values renormalize_logits repetition_penalty
    return_dict_in_generate sequence_bias speculation_type stop_strings suppress_tokens
    target_lookbehind temperature token_healing top_h top_k top_p typical_p use_mtp
    watermarking_config""".split()
)
"""How text is drawn from a model; transformers takes these out of a config.json, too."""

OF_OTHERS = frozenset(
    """bos_token cls_token eos_token is_decoder mask_token model_max_length name_or_path num_labels
    pad_token sbert_ce_default_activation_function sentence_transformers sep_token tf_legacy_loss
    torchscript unk_token unsloth_fixed unsloth_version use_bfloat16""".split()
)
"""What other programs write down, and transformers of older days."""

ABSENT: Mapping[str, Any] = {
    "add_cross_attention": False,
    "attention_bias": False,
    "embedding_multiplier": 1.0,
    "lm_head_bias": False,
    "logits_scaling": 1.0,
    "mlp_bias": False,
    "pruned_heads": {},
    "qk_layernorm": False,
    "residual_multiplier": 1.0,
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_bidirectional_attention": False,
    "use_mrope": False,
    "use_qk_norm": False,
    "use_sliding_window": False,
}
"""Mechanisms of other families, and the value at which a model has none of them."""


def without_effect(raw: Mapping[str, Any], family: Family) -> list[str]:
    """The keys of a config.json that change no number, though its family's row does not have them.

    Those that begin with "_" are notes of transformers: what it reads of them, the rows have.
    """
    lacking = {name: value for name, value in raw.items() if name not in family.known}
    unread = [name for name, value in lacking.items() if _is_unread(name, value)]
    replaced = {n for name, key in family.keys.items() if name in raw for n in key.instead}
    return sorted([*unread, *(replaced & raw.keys()), *_of_rotary(raw)])


def _of_rotary(raw: Mapping[str, Any]) -> list[str]:
    nested = {name: raw.get(name) for name in ("rope_scaling", "rope_parameters")}
    given = [(name, inside) for name, inside in nested.items() if isinstance(inside, dict)]
    return [f"{name}.{key}" for name, inside in given for key in rotary.UNREAD if key in inside]


def _is_unread(name: str, value: Any) -> bool:
    return (name in ABSENT and value == ABSENT[name]) or (
        value is None or name.startswith("_") or name in GENERATION | OF_OTHERS
    )


def ignoring(raw: Mapping[str, Any], names: Sequence[str], family: Family) -> dict[str, Any]:
    """A config.json without keys that somebody knows to change nothing, at any depth.

    Args:
        raw: The config.json, parsed.
        names: Of the keys.
        family: Of the model.

    Raises:
        ValueError: Naming those that are not there, and those that are read.
    """
    there = _names(raw)
    read = {*family.keys, *(n for key in family.keys.values() for n in key.also), *rotary.KEYS}
    odd = [f"{name} (is not there)" for name in names if name not in there]
    odd += [f"{name} (is read)" for name in names if name in there & read]
    refuse("ignore_keys must name keys of config.json that are not read, got", odd, inline=True)
    return _without(raw, frozenset(names))


def _names(raw: Mapping[str, Any]) -> set[str]:
    inside = (_names(value) for value in raw.values() if isinstance(value, dict))
    return set(raw).union(*inside)


def _without(raw: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {
        name: _without(value, names) if isinstance(value, dict) else value
        for name, value in raw.items()
        if name not in names
    }
