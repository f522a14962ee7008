"""What is taken from a model: which site, of which layers, pooled how."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ilo_jax.activations import pooling
from ilo_jax.corpora.packing import Rows
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.sites import At, Visit, widths
from ilo_jax.models.transformer import Transformer

SITES = ("embedding", "residual", "attn_out", "heads", "neurons", "mlp_out")
"""Those of `models.sites` by name that are the model's own values; what attention compares and
mixes, `keys` and `values`, and the ends of a linear map, such as attn/q/output, may be tapped as
well."""
SENTENCE_POOLINGS = ("mean", "content", "last", "max")
"""To one vector a sentence: the mean over all its tokens, over those that stand for text, its last
token, the largest value of each dimension."""
POOLINGS = (*SENTENCE_POOLINGS, "tokens")
"""Those of sentences, or all tokens, of one layer."""


class Tap(NamedTuple):
    """Something to take from a model."""

    site: str
    """One of `SITES`, or an end of a linear map."""
    pooling: str
    """One of `POOLINGS`."""
    layers: tuple[int, ...]
    """Numbers of the site's layers: hidden states, or blocks, from 0."""
    width: int
    """Dimensions of the site; those of all heads together."""

    @property
    def name(self) -> str:
        """SITE_POOLING, with dots for slashes."""
        return f"{self.site.replace('/', '.')}_{self.pooling}"


def read(text: str, config: ModelConfig) -> tuple[Tap, ...]:
    """The taps of a description such as "residual:mean, neurons:max@0+5".

    SITE:POOLING takes every layer of a site, SITE:POOLING@LAYER+LAYER some of them.

    Raises:
        ValueError: Naming everything in it that is not possible for the model.
    """
    taps, problems = [], []
    for part in (part.strip() for part in text.split(",")):
        found = re.fullmatch(r"([\w/]+):(\w+)(?:@(\d+(?:\+\d+)*))?", part)
        if not found:
            problems.append(f"must be SITE:POOLING or SITE:POOLING@LAYER+LAYER, got {part!r}")
            continue
        site, how, layers = found.groups()
        there = _widths(config, site)
        chosen = tuple(there) if layers is None else tuple(map(int, layers.split("+")))
        problems += [f"{one}, got {part!r}" for one in _problems(site, how, chosen, there)]
        taps.append(Tap(site, how, chosen, max(there.values(), default=0)))
    names = [tap.name for tap in taps]
    problems += [f"must differ, got {n} twice" for n in dict.fromkeys(names) if names.count(n) > 1]
    if problems:
        raise ValueError("; ".join(f"a tap {problem}" for problem in problems))
    return tuple(taps)


def _widths(config: ModelConfig, site: str) -> dict[int, int]:
    """Dimensions of a site by layer; empty where the forward does not come by it."""
    if site.startswith("head/"):
        return {}
    return {
        layer: math.prod(shape) for (name, layer), shape in widths(config).items() if name == site
    }


def _problems(site: str, how: str, layers: tuple[int, ...], there: Mapping[int, int]) -> list[str]:
    """What makes a tap impossible, each to be followed by the tap."""
    if not there:
        return [f"must have a site of {', '.join(SITES)}, or an end of a linear map"]
    problems = []
    if how not in POOLINGS:
        problems.append(f"must have a pooling of {', '.join(POOLINGS)}")
    if list(layers) != sorted(set(layers)):
        problems.append("must name its layers once and in order")
    if max(layers) > max(there):
        problems.append(f"must have layers in [0, {max(there)}] of {site}")
    if how == "tokens" and len(layers) > 1:
        problems.append("of tokens must have one layer")
    if len(set(there.values())) > 1:
        problems.append(f"of {site} needs as many of them in every block")
    return problems


def taken(
    model: Transformer, rows: Rows, taps: Sequence[Tap], *, count: int
) -> dict[str, Float[Array, "..."]]:
    """What each tap takes from packed rows, by its name.

    Pooled "layer batch segment dim" in float32; of tokens "batch seq dim".

    Args:
        model: Of which layers that nobody needs are never computed, under `jax.jit`.
        rows: Packed sentences.
        taps: What to take.
        count: How many segments a row has at most.
    """
    shown = model.run(rows, visit=_taking(rows, taps, count=count)).shown
    found = {}
    for tap in taps:
        parts = [shown[tap.site, layer][tap.name] for layer in tap.layers]
        found[tap.name] = parts[0] if tap.pooling == "tokens" else jnp.stack(parts)
    return found


def _taking(rows: Rows, taps: Sequence[Tap], *, count: int) -> Visit:
    """The visit that shows at each site what every tap there takes, by its name."""
    poolings = {tap.name: tap.pooling for tap in taps}

    def take(site: str, given: dict[str, Array], value: Array) -> tuple[Array, dict[str, Array]]:
        flat = value.reshape(*value.shape[:2], -1)
        pool = partial(_pooled, flat, count=count)
        return value, {name: pool(poolings[name], segments) for name, segments in given.items()}

    content = jnp.where(rows.special, 0, rows.segments)
    given: dict[At, dict[str, Array]] = {}
    for tap in taps:
        counted = content if tap.pooling == "content" else rows.segments
        for layer in tap.layers:
            given.setdefault((tap.site, layer), {})[tap.name] = counted
    return Visit(take, given)


def _pooled(
    hidden: Float[Array, "batch seq dim"],
    how: str,
    segments: Int[Array, "batch seq"],
    *,
    count: int,
) -> Float[Array, "batch some dim"]:
    if how == "tokens":
        return hidden
    pool = {"last": pooling.last, "max": pooling.maximum}.get(how, pooling.mean)
    return pool(hidden, segments, count=count)
