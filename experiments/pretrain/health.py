"""How well a checkpoint does on documents that nobody learns from."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from experiments.hardware import settled
from experiments.pretrain.config import Config
from experiments.pretrain.setting import Setting
from ilo_jax.evaluation.documents import LanguageTexts, document_scores
from ilo_jax.evaluation.held_out import TextScores
from ilo_jax.evaluation.likelihood import compiled_likelihood
from ilo_jax.models.transformer import Transformer
from ilo_jax.training.masked import Found, compiled_masked
from ilo_jax.training.series import Health


def judge(config: Config, setting: Setting) -> Callable[[Transformer], Health]:
    """The function that tells how well a model does on held-out documents."""
    at_once = settled(config).batch_tokens
    compiled = {"batch_tokens": at_once, "dtype": jnp.dtype(config.dtype)}
    kind, mesh, texts = setting.model, setting.mesh, setting.held_out
    if setting.vocabulary is None:
        likelihood = compiled_likelihood(kind, mesh, **compiled)
        return lambda model: per_byte(document_scores(model, texts, likelihood), texts)
    find = compiled_masked(kind, mesh, setting.vocabulary, share=config.mask_share, **compiled)
    return lambda model: per_token(find(model, texts.windows.pieces), texts)


def per_byte(scores: TextScores, texts: LanguageTexts) -> Health:
    """How well a causal model does: bits for each byte of a language."""
    loss = np.average(scores.loss, weights=scores.tokens)
    return _health(loss, scores.bits_per_byte, texts)


def per_token(found: Found, texts: LanguageTexts) -> Health:
    """How well a masked model does: nats for each hidden token of a language."""
    language = texts.language[texts.windows.sentence]
    nats, counts = (np.bincount(language, array, len(texts.languages)) for array in found)
    return _health(nats.sum() / counts.sum(), nats / np.maximum(counts, 1), texts)


def _health(loss: float, by_language: np.ndarray, texts: LanguageTexts) -> Health:
    return Health(float(loss), dict(zip(texts.languages, by_language.tolist(), strict=True)))
