"""The config.json of a model, made out of one of its family."""

import dataclasses
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
    vocabulary, the head (tied, own or none, with the architecture's name) and dtype become the
    model's; whatever else differs is refused.

    Args:
        config: Of the model.
        raw: A config.json of the family, parsed.
        dtype: Of the weights.

    Raises:
        ValueError: If `raw` cannot be read, describes another model, or names a token that a
            vocabulary of another size has not got.
    """
    found = {name: value for name, value in raw.items() if name not in LEFT_OUT}
    found |= _architecture(config, found)
    found |= _changes(config, found)
    found["dtype"] = dtype
    _refuse_another(config, read_config(found))
    if config.vocab != read_config(raw).vocab:
        _refuse_absent_tokens(found, config.vocab)
    return found


def _architecture(config: ModelConfig, found: Mapping[str, Any]) -> dict[str, list[str]]:
    """The name of a model that has a head, or none, where it has another name."""
    family, bare = family_of(found), config.head.kind == "none"
    if bare and found.get("architectures"):
        return {"architectures": [family.backbone]}
    if bare != (read_config(found).head.kind == "none"):
        return {"architectures": [family.backbone if bare else family.language_model]}
    return {}


def _changes(config: ModelConfig, found: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config.json of the same architecture that are not the model's."""
    other = read_config(found)
    facts = {"vocab": config.vocab} if config.vocab != other.vocab else {}
    if config.head.kind != other.head.kind:
        facts["tied"] = config.head.kind == "tied"
    return {_name(found, fact): value for fact, value in facts.items()}


def _name(raw: Mapping[str, Any], fact: str) -> str:
    """The key that gives a fact."""
    return next(name for name, key in family_of(raw).keys.items() if key.facts == fact)


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
