"""What a fine-tuning starts from, before any weight is read: text in rows, what is frozen."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.finetune.config import NO_BEARING, Config, check
from experiments.hardware import make_mesh
from experiments.states import open_model
from ilo_jax.corpora.continuations import tokenized
from ilo_jax.corpora.examples import read_examples
from ilo_jax.corpora.limits import refuse_unfit
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.folder import Folder
from ilo_jax.processes import share
from ilo_jax.recipes import FORWARD, TRAINING, key_of
from ilo_jax.training import freezing
from ilo_jax.training.checkpoints import Key
from ilo_jax.training.cost import Cost, step_cost
from ilo_jax.training.dropout import refuse_dropout
from ilo_jax.training.order import Order, Text, own_slots, packed


class Setting(NamedTuple):
    """What a run starts from, before any weight is read."""

    folder: Folder
    """Opened folder of the model."""
    frozen: dict[str, bool]
    """Whether each weight is."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of each weight."""
    text: Text
    order: Order
    mesh: Mesh

    @property
    def model(self) -> ModelConfig:
        """What is trained."""
        return self.folder.config

    @property
    def lowest(self) -> int:
        """Block below which nothing trains."""
        return freezing.lowest_block(self.model, self.frozen)

    @property
    def part(self) -> str:
        """What is computed at a time, for messages."""
        return f"{self.order.part_rows} rows of {self.text.row_length} tokens"


def prepare(config: Config) -> Setting:
    """What a run starts from.

    Raises:
        OSError: If the model or the text is absent.
        ValueError: If the settings, the model or the text cannot be used.
    """
    check(config)
    folder = open_model(config)
    model = folder.config
    refuse_untrainable(config, model)
    examples = read_examples(config.text, split=config.text_split)
    given = {"row_length": config.row_length, "source": f"{examples.source} example"}
    tokens = tokenized(examples.examples, folder.tokenizer, **given)
    refuse_unfit(tokens, model.limits, advice="lower row_length to that")
    text = packed(tokens, row_length=config.row_length)
    at_once = config.rows_at_once or config.rows
    order = Order(len(text.planned), config.rows // at_once, at_once, config.seed)
    if order.rows < order.batch:
        raise ValueError(
            f"the text must fill the {order.batch} rows of a step, got {order.rows} of "
            f"{config.row_length} tokens ({len(tokens.tokens)} tokens in {examples.source})"
        )
    mesh = make_mesh(config)
    own_slots(order, share(mesh))
    shapes = parameters.shapes(parameters.abstract(model, dtype=jnp.float32))
    frozen = frozen_weights(config, model, shapes)
    sizes = {path: like.shape for path, like in shapes.items()}
    return Setting(folder, frozen, sizes, text, order, mesh)


def frozen_weights(config: Config, model: ModelConfig, paths: Iterable[str]) -> dict[str, bool]:
    """Whether each weight is frozen.

    Args:
        config: Of the fine-tuning.
        model: What is trained.
        paths: Of all its weights.

    Raises:
        ValueError: If `freeze` cannot be read or leaves nothing to train, or states are to be kept
            where no block is frozen.
    """
    frozen = freezing.frozen_mask(paths, freezing.read_rules(config.freeze, model))
    if config.frozen_states and not freezing.lowest_block(model, frozen):
        raise ValueError(
            "frozen_states must be empty where the first block trains, as with freeze="
            f"{config.freeze!r}, got {config.frozen_states!r}; freeze=paper:1 would freeze it"
        )
    return frozen


def refuse_untrainable(config: Config, model: ModelConfig) -> None:
    """Refuse a model that cannot be fine-tuned as the configuration asks.

    Raises:
        ValueError: If it is no decoder with a head, or was trained with dropout.
    """
    if not model.causal or model.head.kind == "none":
        kind = "a decoder without a head" if model.causal else "an encoder"
        raise ValueError(f"model must be a decoder with a head to be fine-tuned, got {kind}")
    refuse_dropout(model, waived=not config.dropout)


def training_key(config: Config, setting: Setting) -> Key:
    """All that determines what a run ends with."""
    given = dataclasses.asdict(config) | {"param_dtype": "float32"}
    told = {field.name for part in NO_BEARING for field in dataclasses.fields(part)}
    settings = {name: value for name, value in given.items() if name not in told}
    return key_of(
        FORWARD,
        TRAINING,
        model=setting.folder.fingerprint,
        tokens=setting.text.digest(),
        settings=settings | {"mesh": dict(setting.mesh.shape)},
    )


def kept_states_key(config: Config, setting: Setting) -> Key:
    """All that determines the states of the frozen blocks, and which process has which."""
    text, order = setting.text, setting.order
    return key_of(
        FORWARD,
        model=setting.folder.fingerprint,
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
    """What a step does and spares, in two lines."""
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
