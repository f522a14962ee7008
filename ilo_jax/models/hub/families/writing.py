"""The config.json of a model, made out of one of its family."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import family_of, read_config

TOKENS = [f"{name}_token_id" for name in ("bos", "eos", "pad", "sep", "cls", "mask", "unk")]
"""Keys that name tokens of the vocabulary."""
LEFT_OUT = {"torch_dtype", "auto_map"}
"""Keys of older days, and of code that is never run."""


def config_of(config: ModelConfig, raw: Mapping[str, Any], *, dtype: str) -> dict[str, Any]:
    """The config.json of a model.

    `raw` gives the family, and all that a model needs and ours does not read. The size of the
    vocabulary, the head (tied, own or none) and dtype become the model's; whatever else
    differs is refused.

    Args:
        config: Of the model.
        raw: A config.json of the family, parsed.
        dtype: Of the weights.

    Raises:
        ValueError: If `raw` cannot be read, describes another model, or names a token that a
            vocabulary of another size has not got.
    """
    found = {name: value for name, value in raw.items() if name not in LEFT_OUT}
    for fact, value in _changes(config, read_config(found)).items():
        found |= dict.fromkeys(_names(found, fact), value)
    if config.head.kind == "none" and found.get("architectures"):
        found["architectures"] = [_backbone(str(name)) for name in found["architectures"]]
    found["dtype"] = dtype
    _refuse_another(config, read_config(found))
    if config.vocab != read_config(raw).vocab:
        _refuse_absent_tokens(found, config.vocab)
    return found


def _changes(config: ModelConfig, found: ModelConfig) -> dict[str, Any]:
    """The facts that are not the model's, and what they are to be."""
    kinds = config.head.kind, found.head.kind
    tied = {"tied": kinds[0] == "tied"} if "none" not in kinds and kinds[0] != kinds[1] else {}
    return tied | ({"vocab": config.vocab} if config.vocab != found.vocab else {})


def _names(raw: Mapping[str, Any], fact: str) -> list[str]:
    """The keys that give a fact; that of today where none does yet."""
    (name, key) = next(item for item in family_of(raw).keys.items() if item[1].facts == fact)
    return list(key.given(raw, name)) or [name]


def _backbone(architecture: str) -> str:
    return re.sub(r"(For\w+|LMHeadModel)$", "Model", architecture)


def _refuse_another(config: ModelConfig, found: ModelConfig) -> None:
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    differ = [name for name in names if getattr(config, name) != getattr(found, name)]
    if differ:
        raise ValueError(
            "the model to be saved is not of the config.json that is given: they differ in "
            + ", ".join(differ)
        )


def _refuse_absent_tokens(raw: Mapping[str, Any], vocab: int) -> None:
    named = {name: raw[name] for name in TOKENS if raw.get(name) is not None}
    beyond = [
        f"{name} {ids}"
        for name, ids in named.items()
        if any(token >= vocab for token in (ids if isinstance(ids, list) else [ids]))
    ]
    if beyond:
        raise ValueError(
            f"config.json must name tokens of the model's vocabulary, below {vocab}; got "
            f"{', '.join(beyond)}: give those of its tokenizer"
        )
