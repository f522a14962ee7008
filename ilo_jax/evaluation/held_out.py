"""Aligned sentences that nobody learns from, and how a model is judged by them."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from ilo_jax.activations.pooled import Pooled, compiled_pooled
from ilo_jax.activations.usable import naming, refuse_unusable
from ilo_jax.corpora.continuations import rolling
from ilo_jax.corpora.limits import refuse_unfit
from ilo_jax.corpora.packing import Sentences, joined
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.corpora.tokens import ADVICE, sentence_names, token_ids
from ilo_jax.evaluation.interlingua import scored
from ilo_jax.evaluation.likelihood import (
    Likelihood,
    bits_per_byte,
    compiled_likelihood,
    predicted_tokens,
)
from ilo_jax.evaluation.retrieval import translations_found
from ilo_jax.metrics import IloSettings, ReferencedScores, check_settings
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.transformer import Transformer
from ilo_jax.recipes import FORWARD, SCORES, digest_of, key_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextScores(NamedTuple):
    """What the text of each language costs a model; lower is better."""

    bits_per_byte: Float[np.ndarray, " lang"]
    """Bits for each byte of UTF-8, at least 0; it does not depend on the tokenizer."""
    loss: Float[np.ndarray, " lang"]
    """Nats for each token, at least 0; it depends on the tokenizer."""
    tokens: Int[np.ndarray, " lang"]
    """Number of tokens that were predicted."""


class Judgement(NamedTuple):
    """What held-out sentences say of one model."""

    texts: TextScores
    """What each language's sentences cost the model."""
    scores: ReferencedScores
    """How interlingual each hidden state is, "state lang"."""
    retrieved: Float[np.ndarray, "state lang lang"]
    """How often a sentence's translation is the nearest one, as `metrics.retrieval` says."""


class Slice(NamedTuple):
    """Aligned sentences, and what is compiled to judge any weights of one configuration by them."""

    corpus: Parallel
    """The sentences, of which the model must not have learnt."""
    tokens: Sentences
    """Token ids of all sentences, for their likelihood."""
    whole: Sentences
    """Token ids of the same, for their states: with all that the tokenizer puts around them."""
    likelihood: Likelihood
    """From a model and tokens to log-likelihoods."""
    pooled: Pooled
    """From a model to the embeddings of the sentences at every hidden state."""
    settings: IloSettings
    """How each hidden state is scored."""
    dtype: str
    """Name of the dtype that is computed in."""


def compiled_slice(
    corpus: Parallel,
    tokenizer: "PreTrainedTokenizerBase",
    config: ModelConfig,
    mesh: Mesh,
    *,
    settings: IloSettings,
    batch_tokens: int,
    dtype: DTypeLike,
) -> Slice:
    """Aligned sentences, ready to judge models of a configuration by.

    Args:
        corpus: The sentences, as they are: nothing is put before them.
        tokenizer: Of the models.
        config: Of the models, decoders with a head.
        mesh: On which the weights lie.
        settings: Of the scores of every hidden state.
        batch_tokens: Positions computed at a time on each place along "data".
        dtype: To compute in.

    Raises:
        ValueError: If the settings are not for as many sentences, if a sentence is too long for
            the models or has no tokens, or if they have no likelihoods.
    """
    lang, sent = len(corpus.languages), len(corpus.sentences[0])
    check_settings(settings, num_points=lang * sent, num_languages=lang)
    tokens = corpus_tokens(corpus, tokenizer, config)
    whole = token_ids(corpus, tokenizer, prefix="", limits=config.limits)
    size = {"batch_tokens": batch_tokens, "dtype": dtype}
    return Slice(
        corpus,
        tokens,
        joined(whole),
        compiled_likelihood(config, mesh, **size),
        compiled_pooled(config, whole, mesh, **size),
        settings,
        np.dtype(dtype).name,
    )


def judgement_key(held_out: Slice, fingerprint: Mapping[str, str]) -> dict[str, Any]:
    """All that determines a `Judgement`, but for rounding: that of a model by a slice.

    Args:
        held_out: The slice.
        fingerprint: Of the model's folder.
    """
    corpus = held_out.corpus
    return key_of(
        FORWARD,
        SCORES,
        model=fingerprint,
        tokens=digest_of([*held_out.tokens, *held_out.whole]),
        settings={
            "corpus": corpus.hash,
            "languages": list(corpus.languages),
            "ilo": dataclasses.asdict(held_out.settings),
            "dtype": held_out.dtype,
        },
    )


def judge(model: Transformer, held_out: Slice, *, name: str) -> Judgement:
    """What the sentences say of a model: what its text costs, how interlingual its states are.

    All processes of the mesh must call it, and each gets all of it.

    Args:
        model: Of the slice's configuration, on its mesh.
        held_out: The sentences.
        name: Of the model, for messages.

    Raises:
        MemoryError: If a device has too little.
        ValueError: If a state is not finite or all zero, naming layer, language and sentence.
    """
    likelihoods = held_out.likelihood(model, held_out.tokens)
    states = np.asarray(held_out.pooled(model))
    with naming(name, held_out.corpus.languages):
        refuse_unusable(states, site="residual", layers=range(len(states)))
    return Judgement(
        text_scores(likelihoods, held_out.tokens, held_out.corpus),
        scored(states, held_out.settings),
        translations_found(states, distance=held_out.settings.distance),
    )


def corpus_tokens(
    corpus: Parallel, tokenizer: "PreTrainedTokenizerBase", config: ModelConfig
) -> Sentences:
    """The tokens of all languages' sentences for their likelihood, language by language.

    Args:
        corpus: Aligned sentences.
        tokenizer: Of the model.
        config: Of the model.

    Raises:
        ValueError: Naming the sentences that are too long for the model, or have no tokens.
    """
    name = sentence_names(corpus).__getitem__
    tokens = rolling([text for each in corpus.sentences for text in each], tokenizer, name=name)
    refuse_unfit(tokens, config.limits, name=name, advice=ADVICE)
    return tokens


def text_scores(
    log_likelihoods: Float[np.ndarray, " sent"], tokens: Sentences, corpus: Parallel
) -> TextScores:
    """What the text of each language costs the model that gave its log-likelihoods.

    Args:
        log_likelihoods: Of all sentences, language by language, in nats.
        tokens: Of these sentences, by `corpus_tokens`.
        corpus: The sentences.
    """
    shape = len(corpus.languages), -1
    likelihoods = log_likelihoods.reshape(shape)
    counts = predicted_tokens(tokens).reshape(shape).sum(axis=1, dtype=np.int64)
    sizes = np.array([[len(text.encode()) for text in each] for each in corpus.sentences])
    loss = -likelihoods.sum(axis=1) / counts
    return TextScores(bits_per_byte(likelihoods, sizes), loss, counts)
