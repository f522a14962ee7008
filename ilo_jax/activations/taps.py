"""What is taken from a model: which site, of which layers, pooled how."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ilo_jax.activations import pooling
from ilo_jax.corpora.packing import Rows
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.transformer import Transformer

SITES = ("residual", "mlp")
"""The residual stream (L + 1 hidden states), and the neurons of L MLPs."""
SENTENCE_POOLINGS = ("mean", "content", "last", "max")
"""To one vector a sentence: the mean over all its tokens, over those that stand for text, its last
token, the largest value of each dimension."""
POOLINGS = (*SENTENCE_POOLINGS, "tokens")
"""Those of sentences, or all tokens, of one layer."""


class Tap(NamedTuple):
    """Something to take from a model."""

    site: str
    """One of `SITES`."""
    pooling: str
    """One of `POOLINGS`."""
    layers: tuple[int, ...]
    """Of the site, from 0: hidden states, or blocks."""
    width: int
    """Dimensions of the site."""

    @property
    def name(self) -> str:
        """SITE_POOLING."""
        return f"{self.site}_{self.pooling}"


def read(text: str, config: ModelConfig) -> tuple[Tap, ...]:
    """Return the taps of a description such as "residual:mean, mlp:max@0+5".

    SITE:POOLING takes every layer of a site, SITE:POOLING@LAYER+LAYER some of them.

    Raises:
        ValueError: naming everything in it that is not possible for the model.
    """
    taps, problems = [], []
    for part in (part.strip() for part in text.split(",")):
        found = re.fullmatch(r"(\w+):(\w+)(?:@(\d+(?:\+\d+)*))?", part)
        if not found:
            problems.append(f"must be SITE:POOLING or SITE:POOLING@LAYER+LAYER, got {part!r}")
            continue
        site, how, layers = found.groups()
        chosen = None if layers is None else tuple(map(int, layers.split("+")))
        tap = _tap(config, site, how, chosen)
        problems += [f"{problem}, got {part!r}" for problem in _problems(tap, config)]
        taps.append(tap)
    names = [tap.name for tap in taps]
    problems += [f"must differ, got {n} twice" for n in dict.fromkeys(names) if names.count(n) > 1]
    if problems:
        raise ValueError("; ".join(f"a tap {problem}" for problem in problems))
    return tuple(taps)


def _tap(config: ModelConfig, site: str, how: str, layers: tuple[int, ...] | None) -> Tap:
    layers = tuple(range(_layers(config, site))) if layers is None else layers
    width = config.dim if site == "residual" else max(block.mlp.dim for block in config.blocks)
    return Tap(site, how, layers, width)


def _layers(config: ModelConfig, site: str) -> int:
    return config.layers + (site == "residual")


def _problems(tap: Tap, config: ModelConfig) -> list[str]:
    """What makes a tap impossible, each to be followed by the tap."""
    if tap.site not in SITES:
        return [f"must have a site of {', '.join(SITES)}"]
    problems = []
    if tap.pooling not in POOLINGS:
        problems.append(f"must have a pooling of {', '.join(POOLINGS)}")
    if list(tap.layers) != sorted(set(tap.layers)):
        problems.append("must name its layers once and in order")
    highest = _layers(config, tap.site) - 1
    if max(tap.layers) > highest:
        problems.append(f"must have layers in [0, {highest}] of {tap.site}")
    if tap.pooling == "tokens" and len(tap.layers) > 1:
        problems.append("of tokens must have one layer")
    if tap.site == "mlp" and len({block.mlp.dim for block in config.blocks}) > 1:
        problems.append("of neurons needs as many of them in every block")
    return problems


def taken(
    model: Transformer, rows: Rows, taps: Sequence[Tap], *, count: int
) -> dict[str, Float[Array, "..."]]:
    """Return what each tap takes from packed rows, by its name.

    Pooled "layer batch segment dim" in float32; of tokens "batch seq dim".

    Args:
        model: of which layers that nobody needs are never computed, under `jax.jit`.
        rows: packed sentences.
        taps: what to take.
        count: how many segments a row has at most.
    """

    def of(site: str) -> Callable[[Array], dict[str, Array]]:
        mine = [tap for tap in taps if tap.site == site]
        return lambda x: {tap.name: _pool(tap.pooling, rows, count=count)(x) for tap in mine}

    residual, mlp = model.show(*rows[:3], residual=of("residual"), mlp=of("mlp"))
    found = {}
    for tap in taps:
        layers = residual if tap.site == "residual" else mlp
        parts = [layers[layer][tap.name] for layer in tap.layers]
        found[tap.name] = parts[0] if tap.pooling == "tokens" else jnp.stack(parts)
    return found


def _pool(how: str, rows: Rows, *, count: int) -> Callable[[Array], Array]:
    content = jnp.where(rows.special, 0, rows.segments)
    return {
        "mean": partial(pooling.mean, segments=rows.segments, count=count),
        "content": partial(pooling.mean, segments=content, count=count),
        "last": partial(pooling.last, segments=rows.segments, count=count),
        "max": partial(pooling.maximum, segments=rows.segments, count=count),
        "tokens": lambda hidden: hidden,
    }[how]
