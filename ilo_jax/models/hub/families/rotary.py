"""Rotary positions as config.json spells them, in every generation of transformers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ilo_jax.models.hub.families.reading import NUMBER, Key, only, read_keys
from ilo_jax.models.rotary import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    Scaling,
    YarnScaling,
)

FULL, SLIDING = "full_attention", "sliding_attention"
"""What transformers calls a block that sees everything, and one with a window."""


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """The rotary keys of a config.json, and the habits of its family."""

    rope_theta: float | None = None
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    rope_parameters: Mapping[str, Any] = field(default_factory=dict)
    rotary_fraction: float | None = None
    """Share of each head's dims that turns."""
    original_positions: int | None = None
    """Outranks that of the scaling."""
    default_theta: float = 10000.0
    default_fraction: float = 1.0
    interleaved: bool = False
    sliding_theta: float | None = None
    """Theta of blocks with a window, which then have no scaling (Gemma 3); None: as the others."""
    sliding_only: bool = False
    """Whether the blocks that see everything have no positions (Cohere 2)."""


def ropes(rotary: Rotary, *, head_dim: int, max_positions: int | None) -> dict[str, Rope | None]:
    """The rotary positions of both kinds of blocks.

    Raises:
        ValueError: For spellings that disagree, and for keys that are unknown, missing,
            mistyped or have a value that we do not compute.
    """
    full, sliding = _spellings(rotary)
    rope = _rope(full, rotary, head_dim=head_dim, max_positions=max_positions)
    if sliding is None:
        return {FULL: None if rotary.sliding_only else rope, SLIDING: rope}
    return {
        FULL: rope,
        SLIDING: _rope(sliding, rotary, head_dim=head_dim, max_positions=max_positions),
    }


def _spellings(rotary: Rotary) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """One dict for full attention, and one for sliding where it differs."""
    theta = {} if rotary.rope_theta is None else {"rope_theta": rotary.rope_theta}
    nested = {FULL, SLIDING} & set(rotary.rope_parameters)
    if not nested:
        full = _merge(theta, rotary.rope_scaling, rotary.rope_parameters)
        if rotary.sliding_theta is None:
            return full, None
        return full, {"rope_theta": rotary.sliding_theta}
    if rotary.sliding_theta is None or set(rotary.rope_parameters) != nested:
        raise ValueError(
            f"rope_parameters of config.json must be one for all blocks here, or have exactly "
            f"{FULL} and {SLIDING} where the family tells them apart; got "
            f"{sorted(rotary.rope_parameters)}"
        )
    parameters = _by_kind(rotary.rope_parameters)
    full = _merge(theta, rotary.rope_scaling, parameters[FULL])
    return full, {"rope_theta": rotary.sliding_theta} | _merge(parameters[SLIDING])


def _by_kind(nested: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parameters of either kind of blocks; null is as if absent."""
    given = {kind: nested[kind] for kind in (FULL, SLIDING) if nested.get(kind) is not None}
    if odd := [f"{kind} {value!r}" for kind, value in given.items() if not isinstance(value, dict)]:
        raise ValueError(
            "rope_parameters of config.json must have an object for each kind of blocks, got "
            + ", ".join(odd)
        )
    return {FULL: {}, SLIDING: {}} | given


def _merge(*spellings: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of all spellings, which must agree where they overlap."""
    merged: dict[str, Any] = {}
    for spelling in spellings:
        for key, value in spelling.items():
            name = "rope_type" if key == "type" else key
            if merged.setdefault(name, value) != value:
                raise ValueError(f"config.json gives {name} as {merged[name]!r} and as {value!r}")
    return merged


def _rope(
    raw: Mapping[str, Any], rotary: Rotary, *, head_dim: int, max_positions: int | None
) -> Rope:
    rope_type = raw.get("rope_type") or "default"
    keys = COMMON | (SCALINGS.get(rope_type, {}) if isinstance(rope_type, str) else {})
    given = {name: value for name, value in raw.items() if value is not None}
    read = read_keys(given, keys, inert=INERT, where="rope_parameters of config.json")
    _refuse_nonpositive(read)
    fraction = read.pop("fraction")
    theta = read.pop("theta")
    given = (rotary.rotary_fraction, fraction)
    fractions = {f for f in given if f is not None} or {rotary.default_fraction}
    if len(fractions) > 1:
        raise ValueError(f"config.json gives partial_rotary_factor as {given[0]} and as {given[1]}")
    stated = read.pop("original_positions", None)
    original = rotary.original_positions or stated or max_positions
    return Rope(
        theta=rotary.default_theta if theta is None else theta,
        dims=int(head_dim * fractions.pop()),
        interleaved=rotary.interleaved,
        scaling=_scaling(rope_type, read, original, max_positions),
    )


def _refuse_nonpositive(read: Mapping[str, Any]) -> None:
    """Stop at numbers, and lists that hold anything else, that no rotation can have."""

    def positive(value: Any) -> bool:
        if isinstance(value, list):
            return all(isinstance(v, NUMBER) and v > 0 for v in value)
        return value is None or value > 0

    kept = {name: value for name, value in read.items() if name not in {"truncate", *MSCALES}}
    if odd := [f"{name} {value}" for name, value in kept.items() if not positive(value)]:
        raise ValueError(f"rope_parameters of config.json must be positive, got {', '.join(odd)}")


INERT = ("finetuned",)
"""Keys that change nothing of any scaling."""
UNREAD = ("attn_factor", *INERT)
"""Keys of which nothing is taken; the first must say what is computed anyway."""

MSCALES = ("mscale", "mscale_all_dim")
"""Keys of which 0 means that there is none."""

COMMON = {
    "rope_theta": Key("theta", NUMBER, None),
    "rope_type": Key(
        "", str, "default", ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "su")
    ),
    "partial_rotary_factor": Key("fraction", NUMBER, None),
}
_ORIGINAL = {"original_max_position_embeddings": Key("original_positions", int, None)}
_LONG = {
    "factor": Key("factor", NUMBER, None),
    "attention_factor": Key("attention_factor", NUMBER, None),
    "short_factor": Key("short_factor", list),
    "long_factor": Key("long_factor", list),
}
SCALINGS: dict[str, dict[str, Key]] = {
    "linear": {"factor": Key("factor", NUMBER)},
    "dynamic": {"factor": Key("factor", NUMBER)},
    "yarn": {
        "factor": Key("factor", NUMBER, None),
        "attention_factor": Key("attention_factor", NUMBER, None),
        "attn_factor": Key("attn_factor", NUMBER, None),
        "extrapolation_factor": only(1.0),
        "beta_fast": Key("beta_fast", NUMBER, 32.0),
        "beta_slow": Key("beta_slow", NUMBER, 1.0),
        "mscale": Key("mscale", NUMBER, None),
        "mscale_all_dim": Key("mscale_all_dim", NUMBER, None),
        "truncate": Key("truncate", bool, True),
    }
    | _ORIGINAL,
    "llama3": {
        "factor": Key("factor", NUMBER),
        "low_freq_factor": Key("low_freq_factor", NUMBER),
        "high_freq_factor": Key("high_freq_factor", NUMBER),
        "original_max_position_embeddings": Key("original_positions", int),
    },
    "longrope": _LONG | _ORIGINAL,
    "su": _LONG | _ORIGINAL,
}
"""What each kind of scaling reads, beside theta; "su" is an older name of longrope."""
KEYS = {name for keys in (COMMON, *SCALINGS.values()) for name in keys}
"""All that is read of rotary positions."""


def _scaling(
    kind: str, read: dict[str, Any], original: int | None, max_positions: int | None
) -> Scaling | None:
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(factor=read["factor"])
    if original is None or max_positions is None:
        raise ValueError(f"rope_type {kind!r} needs max_position_embeddings, got none")
    if kind == "dynamic":
        return DynamicScaling(factor=read["factor"], original_positions=max_positions)
    if kind == "llama3":
        return Llama3Scaling(**read, original_positions=original)
    factor = max_positions / original if read["factor"] is None else read["factor"]
    return _yarn(read, factor, original) if kind == "yarn" else _longrope(read, factor, original)


def _yarn(read: dict[str, Any], factor: float, original: int) -> YarnScaling:
    """Source: Peng et al. 2023, section 3.4; mscale is DeepSeek's."""

    def temperature(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0

    attention_factor, mscale, all_dim = (
        read[name] for name in ("attention_factor", "mscale", "mscale_all_dim")
    )
    if attention_factor is None and mscale and all_dim:
        attention_factor = temperature(mscale) / temperature(all_dim)
    elif attention_factor is None:
        attention_factor = temperature(1.0)
    _refuse_temperature(read["attn_factor"], attention_factor)
    return YarnScaling(
        factor=factor,
        original_positions=original,
        beta_fast=read["beta_fast"],
        beta_slow=read["beta_slow"],
        attention_factor=attention_factor,
        truncate=read["truncate"],
    )


def _refuse_temperature(attn_factor: float | None, attention_factor: float) -> None:
    """Stop at an `attn_factor` that asks for another temperature than `attention_factor`.

    transformers does not read it; others take it for the factor itself, or for what the factor is
    multiplied by, or for what undoes the one that they have put in already.
    """
    same = (1.0, attention_factor, 1 / attention_factor)
    if attn_factor is not None and not any(
        math.isclose(attn_factor, f, rel_tol=1e-6) for f in same
    ):
        raise ValueError(
            f"attn_factor of config.json must be 1, {attention_factor:.6g} or its inverse, as "
            f"transformers does not read it, got {attn_factor:.6g}; say attention_factor instead"
        )


def _longrope(read: dict[str, Any], factor: float, original: int) -> LongScaling:
    """Source: Ding et al. 2024, and Phi-3's code for the attention factor."""
    attention_factor = read["attention_factor"]
    if attention_factor is None:
        stretch = math.log(factor) / math.log(original)
        attention_factor = math.sqrt(1 + stretch) if factor > 1 else 1.0
    return LongScaling(
        short_factor=tuple(map(float, read["short_factor"])),
        long_factor=tuple(map(float, read["long_factor"])),
        original_positions=original,
        attention_factor=attention_factor,
    )
