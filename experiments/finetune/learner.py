"""From the setting of a fine-tuning to what `training.run` takes."""

import time
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments.finetune.config import Config
from experiments.finetune.setting import Setting, kept_states_key
from experiments.launch import say
from ilo_jax.files import key_digest
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.loading import load
from ilo_jax.models.parameters import Weights
from ilo_jax.processes import share, together
from ilo_jax.training import freezing, optimizers
from ilo_jax.training.kept_states import KeptStates, compute_kept_states
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.order import place_rows
from ilo_jax.training.run import Learner, Start
from ilo_jax.training.step import Loss


def learning_rate(config: Config) -> optax.Schedule:
    """The learning rate of each step."""
    return optimizers.warmup_cosine(config.learning_rate, warmup=config.warmup, steps=config.steps)


def language_learner(config: Config, setting: Setting, workdir: Path) -> Learner:
    """What a training run needs to know of a fine-tuning; the model is read when it starts.

    Args:
        config: Of the fine-tuning.
        setting: What `prepare` made of it.
        workdir: Where kept states go, if they go to disk and nobody says where.
    """
    loss = language_loss(config, setting.model, setting.mesh, lowest=setting.lowest)
    start = partial(_start, config, setting, workdir)
    return Learner(loss, optimizer(config), start, config.steps, config.seed, setting.mesh)


def language_loss(config: Config, model: ModelConfig, mesh: Mesh, *, lowest: int) -> Loss:
    """The loss of a fine-tuning.

    Args:
        config: Of the fine-tuning.
        model: What is trained.
        mesh: On which its weights lie.
        lowest: Block below which nothing trains.
    """
    return next_token(
        model,
        mesh,
        dtype=jnp.dtype(config.dtype),
        lowest=lowest,
        remat=config.remat,
        fsdp=config.fsdp,
    )


def optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer of a fine-tuning."""
    return optimizers.adamw(
        learning_rate(config), weight_decay=config.weight_decay, clip=config.clip
    )


def _start(config: Config, setting: Setting, workdir: Path) -> Start:
    model = load(setting.folder, mesh=setting.mesh, fsdp=config.fsdp, dtype=jnp.float32)
    weights = parameters.weights(model)
    kept = None
    if config.frozen_states:
        kept = _kept_states(config, setting, workdir, weights)
    trainable, frozen = freezing.split(weights, setting.frozen)
    return Start(trainable, frozen, partial(_batch, setting, kept))


def _batch(setting: Setting, kept: KeptStates | None, step: int) -> Batch:
    order, mesh = setting.order, setting.mesh
    states = None if kept is None else kept.at(order, step, mesh)
    return Batch(place_rows(setting.text, order, step, mesh), states)


def _kept_states(config: Config, setting: Setting, workdir: Path, weights: Weights) -> KeptStates:
    """The states of the frozen blocks, computed or read, saying what they cost."""
    begun = time.perf_counter()
    file = _kept_file(config, setting, workdir) if config.frozen_states == "disk" else None
    kept = compute_kept_states(
        setting.model,
        weights,
        setting.text,
        setting.order,
        setting.mesh,
        blocks=setting.lowest,
        dtype=config.dtype,
        file=file,
    )
    say(
        f"states of the {setting.lowest} frozen blocks: {kept.states.nbytes / 2**20:.1f} MiB of "
        f"{config.dtype} in {file or 'memory'}, {time.perf_counter() - begun:.1f} s"
    )
    return kept


def _kept_file(config: Config, setting: Setting, workdir: Path) -> Path:
    """Where kept states are on disk: another file for whatever changes them."""
    part, key = share(setting.mesh), kept_states_key(config, setting)
    folder = Path(config.frozen_folder or workdir / "frozen")
    together(lambda: folder.mkdir(parents=True, exist_ok=True), what=f"making {folder}")
    return folder / f"{key_digest(key)}-{part.index}-of-{part.count}.bin"
