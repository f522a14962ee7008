"""The config.json of a model that nobody has trained yet: a family, and sizes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import FAMILIES, Family, read_config
from ilo_jax.models.hub.families.writing import TOKENS
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALWAYS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Keys that `transformers` fills with tokens of a larger vocabulary where they are absent."""
GATED = 8 / 3
"""Width of a gated MLP in widths of the model: as many weights as a plain one of four (Shazeer
2020)."""


class Sizes(NamedTuple):
    """How large a model is; what is None is as its family has it."""

    dim: int
    layers: int
    heads: int
    vocab: int
    """Token ids, all of the tokenizer's among them."""
    positions: int
    """The longest text, in tokens; without effect where nothing bounds it."""
    kv_heads: int | None = None
    """None: as many as heads."""
    mlp_dim: int | None = None
    """None: four times `dim`, or 8/3 where the MLP is gated, made up to a multiple of 16."""
    tied: bool | None = None
    """Whether the head shares its matrix with the embedding."""


def preset(family: str, sizes: Sizes, tokens: Mapping[str, int]) -> dict[str, Any]:
    """The config.json of a model of a family, without dropout.

    It has the keys that the family's row reads, by the names they have there; all else is as the
    family's original code takes it where nothing is said.

    Args:
        family: A model type, such as "llama": a key of `FAMILIES`.
        sizes: Of the model.
        tokens: Ids of special tokens by their keys, such as "eos_token_id"; see `special_tokens`.

    Raises:
        ValueError: For an unknown family, for sizes that it cannot have, or tokens that it needs.
    """
    if family not in FAMILIES:
        raise ValueError(f"the family must be one of {', '.join(sorted(FAMILIES))}, got {family!r}")
    row = FAMILIES[family]
    _refuse_unfit(family, row, sizes, tokens)
    facts = _facts(row, sizes, tokens)
    made = {
        name: facts[fact]
        for name, key in row.keys.items()
        for fact in key.facts.split()
        if fact in facts
    }
    made |= {"model_type": family, "architectures": [row.language_model]}
    made |= dict.fromkeys(ALWAYS) | dict(tokens)
    read_config(made)
    return made


def _facts(row: Family, sizes: Sizes, tokens: Mapping[str, int]) -> dict[str, Any]:
    """What is asked for, in the vocabulary of the family's row."""
    head_dim = sizes.dim // sizes.heads
    before = tokens["pad_token_id"] + 1 if "padding_row" in _names(row) else 0
    facts = {
        "vocab": sizes.vocab,
        "dim": sizes.dim,
        "layers": sizes.layers,
        "heads": sizes.heads,
        "kv_heads": sizes.heads if sizes.kv_heads is None else sizes.kv_heads,
        "head_dim": head_dim,
        "scale_dim": head_dim,
        "mlp_dim": _mlp_dim(row, sizes) if sizes.mlp_dim is None else sizes.mlp_dim,
        "max_positions": sizes.positions + before,
        "tied": sizes.tied,
    }
    asked = {fact: value for fact, value in facts.items() if value is not None}
    return asked | {fact: 0.0 for fact in _names(row) if fact.startswith("drop_")}


def _mlp_dim(row: Family, sizes: Sizes) -> int:
    return -(-int(GATED * sizes.dim) // 16) * 16 if row.facts.get("gated") else 4 * sizes.dim


def _names(row: Family) -> set[str]:
    """The facts that the keys of a family give."""
    return {fact for key in row.keys.values() for fact in key.facts.split()}


def _refuse_unfit(family: str, row: Family, sizes: Sizes, tokens: Mapping[str, int]) -> None:
    """Refuse sizes and tokens with which the family has no model."""
    names, problems = _names(row), []
    if small := [f"{name} {n}" for name, n in sizes._asdict().items() if n is not None and n < 1]:
        small = [each for each in small if not each.startswith("tied")]
        problems += [f"sizes of at least 1, not {each}" for each in small]
    elif sizes.dim % sizes.heads:
        problems.append(f"a dim that heads, {sizes.heads}, divide, not {sizes.dim}")
    if "kv_heads" not in names and sizes.kv_heads not in (None, sizes.heads):
        problems.append(f"as many kv_heads as heads, {sizes.heads}, not {sizes.kv_heads}")
    if "mlp_dim" not in names and sizes.mlp_dim not in (None, 4 * sizes.dim):
        problems.append(f"an mlp_dim of four times dim, {4 * sizes.dim}, not {sizes.mlp_dim}")
    if "padding_row" in names and "pad_token_id" not in tokens:
        problems.append("a tokenizer with a padding token, from which it counts positions")
    refuse(f"a model of the family {family} must have", problems, inline=True)


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The ids of a tokenizer's special tokens, by the keys that a config.json has for them."""
    ids = {name: getattr(tokenizer, name) for name in TOKENS}
    return {name: token for name, token in ids.items() if token is not None}


def read_settings(file: Path, *, vocab: int, tokens: Mapping[str, int]) -> dict[str, Any]:
    """A config.json of one's own, with the special tokens of a tokenizer.

    Args:
        file: The config.json.
        vocab: How many token ids the tokenizer has.
        tokens: Ids of its special tokens by their keys.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is none that is read here, or its vocabulary is too small.
    """
    try:
        made = json.loads(file.read_text()) | dict(tokens)
        config: ModelConfig = read_config(made)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    if config.vocab < vocab:
        raise ValueError(
            f"{file}: the vocabulary must have the tokenizer's {vocab} tokens at least, got "
            f"{config.vocab}"
        )
    return made
