"""What a pre-training is asked."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from experiments import settings
from experiments.settings import (
    Aligned,
    Batched,
    Bound,
    Judged,
    Monolingual,
    Overlap,
    at_least,
    given,
    one_of,
)
from ilo_jax.models.hub.families import FAMILIES
from ilo_jax.training import optimizers

VOCABULARIES = ("bpe", "unigram")
"""Kinds of tokenizers that are trained on the text."""
OPTIMIZERS = {"adamw": optimizers.adamw, "muon": optimizers.muon}
SHARE = Bound(lambda share: share < 1, "below 1")


@dataclasses.dataclass(kw_only=True)
class Learnt(Monolingual):
    """Which text is learnt, and how it is cut into tokens."""

    alpha: float = at_least(0, default=0.5)
    """Languages come in proportion to the size of their text to the power of this."""
    shares: str = ""
    """Or in these shares, such as eng=2,deu=1; empty: by `alpha`."""
    tokenizer: str = given(default="bpe", words="bpe, unigram or a folder")
    """bpe (of bytes) or unigram: one is trained on the text; or a folder that has one."""
    vocab: int = at_least(1, default=8192)
    """Tokens of a tokenizer that is trained, at most."""


@dataclasses.dataclass(kw_only=True)
class Shape:
    """Which model is made."""

    model: str = given(default="llama", words="a family or the file of a config.json")
    """A family, such as llama, gpt2 or bert, with the sizes below; or a config.json of one's own,
    which has them."""
    dim: int = at_least(1, default=256)
    """Width."""
    layers: int = at_least(1, default=6)
    """Blocks."""
    heads: int = at_least(1, default=4)
    """Of attention."""
    kv_heads: int = at_least(0, default=0)
    """Heads of keys and values; 0: as many."""
    mlp_dim: int = at_least(0, default=0)
    """Width of the MLP; 0: 4 times `dim`, or 8/3 where it is gated."""
    positions: int = at_least(0, default=0)
    """The longest text; 0: `row_length`."""
    tied: bool = True
    """Whether the head shares its matrix with the embedding."""


@dataclasses.dataclass(kw_only=True)
class Objective:
    """What is to be found."""

    objective: str = one_of(("causal", "masked"), default="causal", words="causal or masked")
    """causal: the next token; masked: some that are hidden."""
    mask_share: float = at_least(0, SHARE, default=0.15)
    """Share of the tokens that are hidden."""
    whole_words: bool = False
    """Whether words are hidden whole."""


@dataclasses.dataclass(kw_only=True)
class Watched:
    """What is kept and written down while it goes on; none of it changes what is learnt."""

    keep: int = at_least(0, default=0)
    """Steps between checkpoints of the series, besides those at powers of two; 0: none."""
    judged: int = at_least(1, default=8192)
    """Bytes of the held-out documents of each language that judge a checkpoint, at most."""
    evaluate: int = at_least(0, default=0)
    """Steps between evaluations on aligned sentences; 0: none."""
    save: int = at_least(0, default=50)
    """Steps between checkpoints to go on from; 0: only where the run ends or is told to stop."""
    tensorboard: bool = False
    """Whether to write WORKDIR/tensorboard, too."""


@dataclasses.dataclass(kw_only=True)
class Config(Watched, Overlap, Judged, Objective, Shape, Learnt):
    """What a model learns from scratch, how, and what is watched meanwhile.

    `corpus`, `split`, `languages` and `sentences` are of the aligned text that is evaluated on.
    """

    optimizer: str = one_of((*OPTIMIZERS,), default="muon", words="adamw or muon")
    """AdamW, or Muon for the matrices within blocks and AdamW for all else."""
    steps: int = at_least(1, default=1024)
    """How many in all."""
    rows: int = at_least(1, default=16)
    """Rows of a step, over all devices."""
    rows_at_once: int = at_least(0, default=0)
    """How many of them are computed at a time; the gradients of the rest are added up. 0: all."""
    row_length: int = at_least(2, default=256)
    """Tokens of a row, into which the text is packed."""
    learning_rate: float = 2e-3
    """At its highest."""
    warmup: int = 100
    """Steps in which the learning rate goes up; then it falls along a cosine."""
    weight_decay: float = at_least(0, default=0.1)
    """Decay of the matrices' weights."""
    clip: float = at_least(0, default=1.0)
    """Norm that the gradients of a step are cut down to; 0: they are not."""
    remat: bool = False
    """Whether blocks are computed again on the way back, which takes less memory."""
    seed: int = at_least(0, default=0)
    """Seed of the first weights, of the order of the rows, and of what is hidden."""


NO_BEARING = (Learnt, Shape, Aligned, Batched, Overlap, Watched)
"""Parts of a Config that change nothing of what is learnt, but for rounding, or are told by the
digests of what they name."""


def check(config: Config) -> None:
    """Refuse values that no run could use.

    Raises:
        ValueError: Naming each of them.
    """
    settings.check(config, *_conflicts(config))


def _conflicts(config: Config) -> Iterator[str]:
    """Yield what is wrong with settings taken together."""
    yield from optimizers.schedule_errors(
        config.learning_rate, warmup=config.warmup, steps=max(1, config.steps)
    )
    if config.rows_at_once and config.rows % config.rows_at_once:
        yield f"rows_at_once must divide rows, {config.rows}, or be 0; got {config.rows_at_once}"
    if config.tokenizer not in VOCABULARIES and not Path(config.tokenizer).is_dir():
        yield f"tokenizer must be bpe, unigram or a folder, got {config.tokenizer!r}"
    if config.model in FAMILIES and 0 < config.positions < config.row_length:
        yield f"positions must be at least row_length, {config.row_length}, got {config.positions}"
    if config.objective == "masked":
        if not config.mask_share:
            yield "mask_share must be above 0 where objective=masked, got 0.0"
        if config.evaluate:
            yield (
                "evaluate must be 0 where objective=masked, as an encoder has no likelihoods; got "
                f"{config.evaluate} (experiments.ilo takes the folders of the series)"
            )
    if config.whole_words and config.objective != "masked":
        yield f"whole_words must be False unless objective=masked, got {config.whole_words}"
