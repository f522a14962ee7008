"""What a transformer is made of, and the strict reading of a Hugging Face config.json.

A model is configured by mechanism, never by its name. `read_keys` accepts a key
only if the family says what it means or that it changes nothing; any other key, a
missing one, a wrong type or a value we do not compute is an error, never a default.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

REQUIRED = object()
"""Marks a key without which a config.json is refused."""


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Rotary frequencies stretched for long context (Llama 3.1).

    Wavelengths above `original_positions / low_freq_factor` are stretched by
    `factor`, those below `original_positions / high_freq_factor` are kept, and
    those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding (Su et al. 2021) over the halves of each head."""

    theta: float
    scaling: Llama3Scaling | None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A causal transformer: pre-RMSNorm blocks, gated MLP, grouped-query attention, RoPE."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_dim: int
    activation: str
    norm_eps: float
    max_positions: int
    rope: Rope
    attention_bias: bool
    mlp_bias: bool
    head: str
    """Of the vocabulary: "tied" to the embedding, its "own" matrix, or "none"."""

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) must be a multiple of kv_heads, {self.kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A bidirectional transformer: post-LayerNorm blocks, plain MLP, learned positions."""

    vocab: int
    dim: int
    layers: int
    heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    max_positions: int
    token_types: int

    def __post_init__(self):
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads, {self.heads}")


Config = DecoderConfig | EncoderConfig


class Key(NamedTuple):
    """How one key of a config.json is read.

    `default` is the value that the family's original code takes where the key is
    absent or null; `allowed`, if not empty, are the only values that we compute.
    """

    kind: type | tuple[type, ...]
    default: Any = REQUIRED
    allowed: tuple[Any, ...] = ()

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        kinds = self.kind if isinstance(self.kind, tuple) else (self.kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return f"must be {' or '.join(k.__name__ for k in kinds)}, got {value!r}"
        if self.allowed and value not in self.allowed:
            return f"must be one of {list(self.allowed)}, got {value!r}"
        return None


def read_keys(
    raw: Mapping[str, Any], keys: Mapping[str, Key], *, inert: Iterable[str], where: str
) -> dict[str, Any]:
    """Return the value of every key in `keys`, defaults filled in.

    Args:
        raw: the parsed JSON object.
        keys: the keys that are read, and how.
        inert: keys that may be present and change no number that we compute.
        where: what is being read, for the error message.

    Raises:
        ValueError: naming every unknown, missing, mistyped and unsupported key.
    """
    values = {
        name: key.default if raw.get(name) is None else raw[name] for name, key in keys.items()
    }
    problems = [f"{name}: unknown key" for name in sorted(set(raw) - set(keys) - set(inert))]
    for name, value in values.items():
        if value is REQUIRED:
            problems.append(f"{name}: missing")
        elif value is not keys[name].default and (problem := keys[name].problem(value)):
            problems.append(f"{name}: {problem}")
    if problems:
        raise ValueError(f"cannot read {where}:\n  " + "\n  ".join(problems))
    return values
