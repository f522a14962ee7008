"""What a fine-tuning is asked."""

import dataclasses
from collections.abc import Iterator

from experiments import settings
from experiments.settings import (
    Aligned,
    Batched,
    Model,
    Overlap,
    Source,
    at_least,
    one_of,
)
from ilo_jax.training import optimizers


@dataclasses.dataclass(kw_only=True)
class Learnt:
    """Which text is learnt."""

    text: str = ""
    """What is learnt: a .txt file or a folder of them, prompts and completions as .jsonl, the
    paragraphs of a SQuAD-shaped .json, or a prepared TFDS dataset."""
    text_split: str = ""
    """Split of a dataset; may be empty where there is just one."""


@dataclasses.dataclass(kw_only=True)
class Watched:
    """What is kept and written down while it goes on; none of it changes what is learnt."""

    frozen_states: str = one_of(("", "memory", "disk"), default="", words="empty, memory or disk")
    """Whether what the frozen first blocks make of the text is computed once and kept: empty (no),
    memory or disk. Only where `freeze` leaves the first blocks out."""
    frozen_folder: str = ""
    """Where on disk; empty: WORKDIR/frozen. Runs of one model and text may share it."""
    evaluate: int = at_least(0, default=50)
    """Steps between evaluations; 0: none."""
    save: int = at_least(0, default=50)
    """Steps between checkpoints; 0: only where the run ends or is told to stop."""
    tensorboard: bool = False
    """Whether to write WORKDIR/tensorboard, too."""


@dataclasses.dataclass(kw_only=True)
class Config(Watched, Overlap, Source, Learnt):
    """What a decoder learns, how, and what is watched meanwhile.

    `corpus`, `split`, `languages` and `sentences` are of the aligned text that is evaluated on.
    """

    freeze: str = "none"
    """What does not train: none; paper:8, the embedding, the first 8 blocks, the final norm and the
    head; or patterns of weight paths, separated by commas (not those within braces or brackets)."""
    steps: int = at_least(1, default=200)
    """How many in all."""
    rows: int = at_least(1, default=8)
    """Rows of a step, over all devices."""
    rows_at_once: int = at_least(0, default=0)
    """How many of them are computed at a time; the gradients of the rest are added up. 0: all."""
    row_length: int = at_least(2, default=512)
    """Tokens of a row, into which the text is packed."""
    learning_rate: float = 5e-5
    """At its highest."""
    warmup: int = 10
    """Steps in which the learning rate goes up; then it falls along a cosine."""
    weight_decay: float = at_least(0, default=0.01)
    """Decay of the matrices' weights, by AdamW."""
    clip: float = at_least(0, default=1.0)
    """Norm that the gradients of a step are cut down to; 0: they are not."""
    dropout: bool = True
    """Whether to honour the dropout of the model's config.json. None is computed here, so that a
    model that has some is refused; False: it is trained without."""
    remat: bool = False
    """Whether blocks are computed again on the way back, which takes less memory."""
    seed: int = at_least(0, default=0)
    """Seed of the order of the rows."""


NO_BEARING = (Model, Learnt, Aligned, Batched, Overlap, Watched)
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
    if not config.text:
        yield "text must be a file or folder to learn from, got none"
    if config.rows_at_once and config.rows % config.rows_at_once:
        yield f"rows_at_once must divide rows, {config.rows}, or be 0; got {config.rows_at_once}"
    if config.frozen_folder and config.frozen_states != "disk":
        yield f"frozen_folder must be empty unless frozen_states=disk, got {config.frozen_folder!r}"
