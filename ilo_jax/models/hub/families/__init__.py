"""Every model type that we read, one row each."""

from collections.abc import Mapping
from typing import Any

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import encoders, gated, plain
from ilo_jax.models.hub.families.facts import gather, model_config
from ilo_jax.models.hub.families.family import Family, Place
from ilo_jax.models.hub.families.reading import read_keys
from ilo_jax.models.hub.families.unread import without_effect

__all__ = ["FAMILIES", "Family", "Place", "family_of", "read_config"]

FAMILIES: dict[str, Family] = {
    "bert": encoders.BERT,
    "bloom": plain.BLOOM,
    "cohere": gated.COHERE,
    "cohere2": gated.COHERE2,
    "distilbert": encoders.DISTILBERT,
    "gemma": gated.GEMMA,
    "gemma2": gated.GEMMA2,
    "gemma3_text": gated.GEMMA3,
    "gpt2": plain.GPT2,
    "gpt_neox": plain.GPT_NEOX,
    "llama": gated.LLAMA,
    "mistral": gated.MISTRAL,
    "olmo2": gated.OLMO2,
    "opt": plain.OPT,
    "phi3": gated.PHI3,
    "qwen2": gated.QWEN2,
    "qwen3": gated.QWEN3,
    "roberta": encoders.ROBERTA,
    "xglm": plain.XGLM,
    "xlm-roberta": encoders.XLM_ROBERTA,
}


def family_of(raw: Mapping[str, Any]) -> Family:
    """The family of a parsed config.json.

    Raises:
        ValueError: For a model type that we do not read, or one that needs remote code.
    """
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if "auto_map" in raw and (family is None or "auto_map" not in family.inert):
        raise ValueError(
            "config.json has auto_map: its model needs remote code, which is never run"
        )
    if family is None:
        raise ValueError(f"model_type must be one of {sorted(FAMILIES)}, got {model_type!r}")
    return family


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """The mechanisms of a parsed Hugging Face config.json.

    Raises:
        ValueError: For an unknown model type, and for any key that is unknown,
            missing, mistyped or has a value that we do not compute.
    """
    family = family_of(raw)
    where = f"config.json of model_type {raw['model_type']!r}"
    inert = family.inert.union(without_effect(raw, family))
    facts = read_keys(raw, family.keys, inert=inert, where=where)
    return model_config(gather({**family.facts, **facts}))
