"""What a fine-tuning starts from: its settings, checked, its text in rows, what is frozen."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import settings
from experiments.settings import Held, Overlap, Source, at_least, one_of
from experiments.states import find_model
from ilo_jax import sharding
from ilo_jax.corpora.examples import read_examples
from ilo_jax.corpora.tokens import refuse_unfit, tokenized
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub import repository
from ilo_jax.processes import share
from ilo_jax.recipes import FORWARD, TRAINING, key_of
from ilo_jax.training import freezing, optimizers
from ilo_jax.training.checkpoints import Key
from ilo_jax.training.cost import Cost, step_cost
from ilo_jax.training.order import Order, Text, own_slots, packed


@dataclasses.dataclass(kw_only=True)
class Config(Overlap, Held, Source):
    """What a decoder learns, how, and what is watched meanwhile.

    `corpus`, `split`, `languages` and `sentences` are of the aligned text that is evaluated on.
    """

    text: str = ""
    """What is learnt: a .txt file or a folder of them, prompts and completions as .jsonl, the
    paragraphs of a SQuAD-shaped .json, or a prepared TFDS dataset."""
    text_split: str = ""
    """Of a dataset; may be empty where there is just one."""
    freeze: str = "none"
    """What does not train: none; paper:8, the embedding, the first 8 blocks, the final norm and the
    head; or patterns of weight paths, separated by commas."""
    frozen_states: str = one_of(("", "memory", "disk"), default="", words="empty, memory or disk")
    """Whether what the frozen first blocks make of the text is computed once and kept: empty (no),
    memory or disk."""
    frozen_folder: str = ""
    """Where on disk; empty: WORKDIR/frozen. Runs of one model and text may share it."""
    steps: int = at_least(1, default=200)
    """How many in all."""
    rows: int = at_least(1, default=8)
    """Of a step, over all devices."""
    rows_at_once: int = at_least(0, default=0)
    """How many of them are computed at a time; the gradients of the rest are added up. 0: all."""
    row_length: int = at_least(2, default=512)
    """Tokens of a row, into which the text is packed."""
    learning_rate: float = 5e-5
    """At its highest."""
    warmup: int = 10
    """Steps in which the learning rate goes up; then it falls along a cosine."""
    weight_decay: float = at_least(0, default=0.01)
    """Of matrices."""
    clip: float = at_least(0, default=1.0)
    """Norm that the gradients of a step are cut down to; 0: they are not."""
    remat: bool = False
    """Whether blocks are computed again on the way back, which takes less memory."""
    seed: int = at_least(0, default=0)
    """Of the order of the rows."""
    evaluate: int = at_least(0, default=50)
    """Steps between evaluations; 0: none."""
    save: int = at_least(0, default=50)
    """Steps between checkpoints; 0: only where the run ends or is told to stop."""
    tensorboard: bool = False
    """Whether to write WORKDIR/tensorboard, too."""


def check(config: Config) -> None:
    """Refuse values that no run could use.

    Raises:
        ValueError: naming each of them.
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
    if config.param_dtype not in ("", "float32"):
        yield f"param_dtype must be float32 in training, got {config.param_dtype!r}"


class Setting(NamedTuple):
    """What a run starts from, before any weight is read."""

    folder: Path
    """Of the model."""
    name: str
    model: ModelConfig
    frozen: dict[str, bool]
    """Whether each weight is."""
    shapes: dict[str, tuple[int, ...]]
    """Of each weight."""
    text: Text
    order: Order
    mesh: Mesh

    @property
    def lowest(self) -> int:
        """Block below which nothing trains."""
        return freezing.lowest_block(self.model, self.frozen)


def prepare(config: Config) -> Setting:
    """Return what a run starts from.

    Raises:
        OSError: if the model or the text is absent.
        ValueError: if the settings, the model or the text cannot be used.
    """
    check(config)
    folder, name = find_model(config)
    model = repository.folder_config(folder)
    _refuse_untrainable(model)
    examples = read_examples(config.text, split=config.text_split)
    tokens = tokenized(
        examples.examples, repository.load_tokenizer(folder), row_length=config.row_length
    )
    refuse_unfit(tokens, limit=model.max_positions, vocab=model.vocab)
    text = packed(tokens, row_length=config.row_length)
    at_once = config.rows_at_once or config.rows
    order = Order(len(text.planned), config.rows // at_once, at_once, config.seed)
    if order.rows < order.batch:
        raise ValueError(
            f"the text must fill the {order.batch} rows of a step, got {order.rows} of "
            f"{config.row_length} tokens ({len(tokens.tokens)} tokens in {examples.source})"
        )
    mesh = sharding.make_mesh(model=config.model_parallel)
    own_slots(order, share(mesh))
    shapes = parameters.shapes(parameters.abstract(model, dtype=jnp.float32))
    frozen = freezing.frozen_mask(shapes, freezing.read_rules(config.freeze, model))
    sizes = {path: like.shape for path, like in shapes.items()}
    return Setting(folder, name, model, frozen, sizes, text, order, mesh)


def _refuse_untrainable(model: ModelConfig) -> None:
    if not model.causal or model.head.kind == "none":
        kind = "a decoder without a head" if model.causal else "an encoder"
        raise ValueError(f"model must be a decoder with a head to be fine-tuned, got {kind}")


NOT_IN_KEY = """model corpus split languages sentences batch_tokens text text_split evaluate save
    tensorboard k min_languages frozen_states frozen_folder""".split()
"""Fields that change nothing of what is learnt, but for rounding, or are told by what they name."""


def training_key(config: Config, setting: Setting) -> Key:
    """Return all that determines what a run ends with."""
    given = dataclasses.asdict(config) | {"param_dtype": "float32"}
    settings = {name: value for name, value in given.items() if name not in NOT_IN_KEY}
    return key_of(
        FORWARD,
        TRAINING,
        model=repository.fingerprint(setting.folder),
        tokens=setting.text.digest(),
        settings=settings | {"mesh": dict(setting.mesh.shape)},
    )


def kept_states_key(config: Config, setting: Setting) -> Key:
    """Return all that determines the states of the frozen blocks, and which process has which."""
    text, order = setting.text, setting.order
    return key_of(
        FORWARD,
        model=repository.fingerprint(setting.folder),
        tokens=text.digest(),
        settings={
            "row_length": text.row_length,
            "blocks": setting.lowest,
            "dtype": config.dtype,
            "mesh": dict(setting.mesh.shape),
            "rows": [order.parts, order.part_rows],
        },
    )


def describe(setting: Setting, *, cached: bool, remat: bool) -> str:
    """Return what a step does and spares, in two lines."""
    sizes = {path: math.prod(shape) for path, shape in setting.shapes.items()}
    frozen = freezing.describe(setting.model, setting.frozen, sizes)
    step, whole = _cost(setting, setting.frozen, cached, remat), _cost(setting, {}, False, remat)
    order, text = setting.order, setting.text
    tokens = len(text.sentences.tokens)
    return (
        f"{frozen}\n{tokens} tokens in {order.rows} rows of {text.row_length} "
        f"({1 - tokens / order.rows / text.row_length:.1%} padding), an epoch is {order.epoch} "
        f"steps; {step.total / 1e9:.4g} GFLOP a step, {step.total / whole.total:.0%} of full "
        "fine-tuning"
    )


def _cost(setting: Setting, frozen: Mapping[str, bool], cached: bool, remat: bool) -> Cost:
    return step_cost(
        setting.model,
        setting.shapes,
        frozen or dict.fromkeys(setting.shapes, False),
        rows=setting.order.batch,
        row_length=setting.text.row_length,
        cached=cached,
        remat=remat,
    )
