"""From the setting of a pre-training to what `training.run` takes."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from experiments.pretrain.config import OPTIMIZERS, Config
from experiments.pretrain.setting import Setting
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.parameters import Weights
from ilo_jax.training import optimizers
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.masked import Vocabulary, masked_tokens
from ilo_jax.training.run import Learner, Start
from ilo_jax.training.step import Loss


def learning_rate(config: Config) -> optax.Schedule:
    """The learning rate of each step: of the line and the cosine those that are above 0.

    A first step that changes nothing would leave two checkpoints with equal weights.
    """
    whole = {"warmup": config.warmup, "steps": config.steps + 1}
    schedule = optimizers.warmup_cosine(config.learning_rate, **whole)
    return lambda step: schedule(step + 1)


def optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer of a pre-training."""
    return OPTIMIZERS[config.optimizer](
        learning_rate(config), weight_decay=config.weight_decay, clip=config.clip
    )


def language_learner(config: Config, setting: Setting) -> Learner:
    """What a training run needs to know of a pre-training; the model is made when it starts."""
    loss = language_loss(config, setting.model, setting.mesh, vocabulary=setting.vocabulary)
    start = partial(_start, config, setting)
    return Learner(loss, optimizer(config), start, config.steps, config.seed, setting.mesh)


def language_loss(
    config: Config, model: ModelConfig, mesh: Mesh, *, vocabulary: Vocabulary | None
) -> Loss:
    """The loss of a pre-training.

    Args:
        config: Of the pre-training.
        model: What is trained.
        mesh: On which its weights lie.
        vocabulary: Of the text, where tokens are hidden.
    """
    computed = {"dtype": jnp.dtype(config.dtype), "remat": config.remat, "fsdp": config.fsdp}
    if vocabulary is None:
        return next_token(model, mesh, **computed)
    return masked_tokens(model, mesh, vocabulary, share=config.mask_share, **computed)


def _start(config: Config, setting: Setting) -> Start:
    weights = first_weights(setting.model, setting.mesh, fsdp=config.fsdp, seed=config.seed)
    return Start(weights, {}, partial(_batch, setting))


def first_weights(model: ModelConfig, mesh: Mesh, *, fsdp: bool, seed: int) -> Weights:
    """The weights before the first step, each drawn where it lies."""
    lies = parameters.shardings(parameters.abstract(model, dtype=jnp.float32), mesh, fsdp=fsdp)

    def draw() -> Weights:
        return parameters.weights(parameters.build(model, dtype=jnp.float32, rngs=nnx.Rngs(seed)))

    return jax.jit(draw, out_shardings=lies)()


def _batch(setting: Setting, step: int) -> Batch:
    return Batch(setting.mixture.rows(step, setting.mesh))
