"""Which weights train: rules over their paths that decide every one of them exactly once.

In a loop of one's own, over all weights of a model, `partitioned` keeps them with optax alone::

    rules = freezing.selective(model.config, blocks=8)
    optimizer = freezing.partitioned(optax.adamw(1e-5), rules)
    state = optimizer.init(weights)
    updates, state = optimizer.update(gradients, state, weights)
    weights = optax.apply_updates(weights, updates)

`training.step` does more: it differentiates only what trains.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import optax
from jax.tree_util import GetAttrKey, keystr
from jaxtyping import PyTree

from ilo_jax.models.config import ModelConfig
from ilo_jax.refusals import listed

T = TypeVar("T")

SEPARATOR = re.compile(r",(?![^{}]*\}|[^\[\]]*\])")
"""What stands between patterns: a comma, but in {1,2} and [a,b]."""


class Rule(NamedTuple):
    """What becomes of the weights whose whole path a pattern fits."""

    pattern: str
    """A regular expression over paths such as "layers/3/attn/q/kernel"."""
    frozen: bool


def everything_trains() -> tuple[Rule, ...]:
    """The rules of full fine-tuning."""
    return (Rule(".*", frozen=False),)


def selective(config: ModelConfig, *, blocks: int) -> tuple[Rule, ...]:
    """The paper's selective freezing: embedding, first blocks, final norm and head stay.

    Wilie et al. 2025 (arXiv 2503.11280), section 5, with `blocks` = 8. The number is literal
    here: 8 freezes blocks 0 to 7, as the text and the released code's docstring say. The
    code itself loops over `range(8 + 1)`, and so freezes block 8, too.

    A head that is tied to the embedding is frozen with it. Of an encoder it freezes the same:
    all that is added or done to embeddings, its first blocks, and its head.

    Args:
        config: Of the model, causal or not.
        blocks: How many of the first blocks do not train.

    Raises:
        ValueError: If nothing would be left to train, or `blocks` is negative.
    """
    if not 0 <= blocks < config.layers:
        raise ValueError(f"blocks must be in [0, {config.layers - 1}] to be frozen, got {blocks}")
    rules = [Rule("embed/.*", frozen=True)]
    rules += [Rule(f"layers/{i}/.*", frozen=i < blocks) for i in range(config.layers)]
    final = config.final_norm
    rules += [Rule("norm/.*", frozen=True)] if final and (final.scale or final.bias) else []
    return (*rules, *([Rule("head/.*", frozen=True)] if _has_own_weights(config) else []))


def _has_own_weights(config: ModelConfig) -> bool:
    head = config.head
    parts = (head.bias, head.activation, head.norm, config.embedding.inner_dim)
    return head.kind == "own" or (head.kind == "tied" and any(parts))


def read_rules(text: str, config: ModelConfig) -> tuple[Rule, ...]:
    """The rules of a description.

    Args:
        text: "none"; "paper:8", the paper's with so many blocks; or patterns of what is frozen,
            separated by commas outside of braces and brackets, such as
            "embed/.*,layers/[0-9]{1,2}/attn/.*": all else trains.
        config: Of the model.

    Raises:
        ValueError: If it is none of these.
    """
    if text == "none":
        return everything_trains()
    if found := re.fullmatch(r"paper:(\d+)", text):
        return selective(config, blocks=int(found[1]))
    patterns = [pattern.strip() for pattern in SEPARATOR.split(text)]
    if not all(patterns) or text.startswith("paper"):
        raise ValueError(f"freeze must be none, paper:BLOCKS or PATTERN,PATTERN; got {text!r}")
    for pattern in patterns:
        _compiled(pattern)
    rest = "".join(f"(?!(?:{pattern})$)" for pattern in patterns)
    return (*(Rule(pattern, frozen=True) for pattern in patterns), Rule(f"{rest}.*", frozen=False))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def frozen_mask(paths: Iterable[str], rules: Sequence[Rule]) -> dict[str, bool]:
    """Whether each weight is frozen.

    Args:
        paths: Of all weights of a model.
        rules: Of which exactly one must fit each path.

    Raises:
        ValueError: Naming the weights that no rule or several rules fit, and the rules that fit
            none with the paths that are like them; or if nothing is left to train.
    """
    patterns = [_compiled(rule.pattern) for rule in rules]
    fits = {path: [i for i, p in enumerate(patterns) if p.fullmatch(path)] for path in paths}
    mask = {path: rules[fit[0]].frozen for path, fit in fits.items() if len(fit) == 1}
    if len(mask) == len(fits) and all(mask.values()):
        raise ValueError("the rules freeze every weight: nothing is left to train")
    several = {path: [rules[i].pattern for i in fit] for path, fit in fits.items() if fit[1:]}
    idle = set(range(len(rules))).difference(*fits.values())
    problems = [
        _named("no rule fits", [path for path, fit in fits.items() if not fit]),
        _named("several rules fit", [f"{path} ({', '.join(p)})" for path, p in several.items()]),
        _named("no weight is of", [_with_near(rules[i].pattern, fits) for i in sorted(idle)]),
    ]
    if any(problems):
        raise ValueError("; ".join(filter(None, problems)))
    return mask


def _with_near(pattern: str, paths: Iterable[str]) -> str:
    """A pattern that fits nothing, and the paths that share most words with it.

    Names of Hugging Face, such as model.layers.0.self_attn.q_proj.weight, share most with theirs.
    """
    asked = _words(pattern)
    shares = {path: len(asked & _words(path)) / len(asked | _words(path)) for path in paths}
    near = sorted(filter(shares.get, shares), key=lambda path: -shares[path])
    return f"{pattern} (near: {', '.join(near[:3])})" if near else pattern


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+|\d+", name.replace("layernorm", "norm")))


def _named(problem: str, offenders: Sequence[str]) -> str:
    return f"{problem} {listed(offenders)}" if offenders else ""


def split(
    weights: Mapping[str, T], frozen: Mapping[str, bool]
) -> tuple[dict[str, T], dict[str, T]]:
    """The weights that train, and those that are frozen."""
    trainable = {path: weight for path, weight in weights.items() if not frozen[path]}
    return trainable, {path: weight for path, weight in weights.items() if frozen[path]}


def partitioned(
    optimizer: optax.GradientTransformation, rules: Sequence[Rule]
) -> optax.GradientTransformation:
    """An optimizer that leaves frozen weights bit-identical and keeps no moments for them.

    Their gradients have no part in anything either, such as the norm that `optax` clips by.
    Made of `optax.partition` and `optax.set_to_zero`, for loops that are not ours.

    Args:
        optimizer: For the weights that train.
        rules: Of which exactly one must fit each path. The weights are a dict by path, or any
            tree whose keys, joined by "/", are the paths, such as `nnx.state(model, nnx.Param)`.

    Raises:
        ValueError: From `init`, as from `frozen_mask`.
    """

    def labels(weights: PyTree) -> PyTree:
        paths = jax.tree.map_with_path(lambda path, _: _joined(path), weights)
        frozen = frozen_mask(jax.tree.leaves(paths), rules)
        return jax.tree.map(lambda path: "frozen" if frozen[path] else "trains", paths)

    return optax.partition({"trains": optimizer, "frozen": optax.set_to_zero()}, labels)


def _joined(path: tuple[Any, ...]) -> str:
    """A path as rules see it; nnx has each array as the value of a variable."""
    path = path[:-1] if path[-1:] == (GetAttrKey("value"),) else path
    return keystr(path, simple=True, separator="/")


def lowest_block(config: ModelConfig, frozen: Mapping[str, bool]) -> int:
    """How many of the first blocks are a fixed function of the tokens.

    Hidden state number so many, the one before the lowest block that trains, never changes;
    nothing is differentiated below it. It is 0 where the embedding trains.
    """
    trains = [path for path, is_frozen in frozen.items() if not is_frozen]
    if any(path.startswith("embed/") for path in trains):
        return 0
    blocks = [int(path.split("/")[1]) for path in trains if path.startswith("layers/")]
    # The final norm comes with the last block.
    last = config.layers - any(path.startswith("norm/") for path in trains)
    return min([last, *blocks])


def describe(config: ModelConfig, frozen: Mapping[str, bool], sizes: Mapping[str, int]) -> str:
    """What is frozen, in one line.

    Args:
        config: Of the model.
        frozen: Whether each weight is.
        sizes: Of all weights, in parameters.
    """
    parts: dict[str, set[bool]] = {}
    for path, is_frozen in frozen.items():
        part = path.split("/")
        name = f"block {part[1]}" if part[0] == "layers" else _PARTS[part[0]]
        parts.setdefault(name, set()).add(is_frozen)
    whole = [name for name, states in parts.items() if states == {True}]
    partly = [f"part of {name}" for name, states in parts.items() if len(states) == 2]
    named = ", ".join([*_ranges(whole), *partly]) or "nothing"
    if config.head.kind == "tied":
        fate = "frozen" if frozen["embed/tokens/embedding"] else "trains"
        named += f" (the head is tied to the embedding and {fate} with it)"
    count = sum(size for path, size in sizes.items() if frozen[path])
    share = count / sum(sizes.values())
    return f"frozen: {named}: {count:,} of {sum(sizes.values()):,} parameters ({share:.0%})"


_PARTS = {"embed": "embedding", "norm": "final norm", "head": "head"}


def _ranges(names: Sequence[str]) -> list[str]:
    """The names, consecutive blocks as one."""
    blocks = [int(name.split()[1]) for name in names if name.startswith("block ")]
    others = [name for name in names if not name.startswith("block ")]
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    named = [f"blocks {r[0]} to {r[-1]}" if len(r) > 1 else f"block {r[0]}" for r in runs]
    return [*others[:1], *named, *others[1:]] if others[:1] == ["embedding"] else named + others
