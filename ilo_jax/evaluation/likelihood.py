"""How likely text is under a causal language model: in nats, and in bits per byte."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Float64, Int, Int32
from tqdm import tqdm

from ilo_jax import sharding
from ilo_jax.activations.forward import naming_what_to_change
from ilo_jax.activations.schedule import even_batches
from ilo_jax.corpora import tokens
from ilo_jax.corpora.packing import Rows, Sentences, as_sentences, place_whole
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.losses import next_token_losses
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import quiet
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Likelihood = Callable[[Transformer, Sentences], Float64[np.ndarray, " sent"]]
"""Gives the log-likelihoods of sentences under a model."""


def rolling(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> Sentences:
    """Return the tokens of texts, each after something given, so that all of it is predicted.

    Given are the special tokens that the tokenizer puts first, or where it puts none its BOS
    token, or where it has none its EOS token. That is how lm-evaluation-harness 0.4.13
    prepares `loglikelihood_rolling`, but for three things: where the tokenizer puts a BOS
    token itself, the harness puts another one before it; special tokens at the end are
    left out here; and what is longer than the model is not cut into windows.

    Args:
        texts: any.
        tokenizer: of the model.

    Raises:
        ValueError: naming the texts without tokens, or if there is nothing to begin with.
    """
    return continuations([""] * len(texts), texts, tokenizer)


def continuations(
    contexts: Sequence[str], options: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> Sentences:
    """Return the tokens of each context and option together, those of the context given.

    As lm-evaluation-harness 0.4.13 prepares `loglikelihood`: white space at the end of a context
    goes to the option; of both tokenized as one, the option has what follows as many tokens as
    the context has alone; these the context keeps, even where the two together are cut up
    otherwise. Before an option without a context there is what `rolling` puts there. Where the
    harness drops the first tokens of what is too long for the model, `refuse_unfit` refuses it.

    Args:
        contexts: may be empty.
        options: one for each context, with the space between them, if any.
        tokenizer: of the model.

    Raises:
        ValueError: naming the options without tokens, or if there is nothing to begin with.
    """
    kept = [context.rstrip() for context in contexts]
    whole = [context + option for context, option in zip(contexts, options, strict=True)]
    pairs = zip(_encoded(kept, tokenizer), _encoded(whole, tokenizer), strict=True)
    given = [_given(alone, both) for alone, both in pairs]
    _refuse_empty(given, whole)
    if any(not count for count, _, _ in given):
        opening = [_opening(tokenizer)]
        given = [(n, own, ids) if n else (1, 1, opening + ids) for n, own, ids in given]
    return as_sentences(
        [ids for _, _, ids in given],
        [[1] * own + [0] * (len(ids) - own) for _, own, ids in given],
        target=[[0] * count + [1] * (len(ids) - count) for count, _, ids in given],
    )


class _Encoded(NamedTuple):
    """The tokens of a text, without special tokens at its end."""

    ids: list[int]
    before: int
    """How many special tokens there are at its start."""


def _encoded(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[_Encoded]:
    found = tokenizer(
        list(texts),
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
    pairs = zip(found["input_ids"], found["special_tokens_mask"], strict=True)
    return [_stripped(ids, special) for ids, special in pairs]


def _stripped(ids: Sequence[int], special: Sequence[int]) -> _Encoded:
    """Return the tokens without the special ones at the end, and how many there are before."""
    text = np.flatnonzero(np.logical_not(special))
    if not len(text):
        return _Encoded([], 0)
    return _Encoded(list(ids[: text[-1] + 1]), int(text[0]))


def _given(alone: _Encoded, both: _Encoded) -> tuple[int, int, list[int]]:
    """Return how many tokens are given, how many of them are special, and all tokens."""
    ids = alone.ids + both.ids[len(alone.ids) :]
    return max(len(alone.ids), both.before), both.before, ids


def _refuse_empty(given: Sequence[tuple[int, int, Sequence[int]]], texts: Sequence[str]) -> None:
    problems = [
        f"{number}: {text!r}"
        for number, ((count, _, ids), text) in enumerate(zip(given, texts, strict=True), 1)
        if count >= len(ids)
    ]
    refuse("a text must have a token beside those given; got:", problems)


def _opening(tokenizer: "PreTrainedTokenizerBase") -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise ValueError("the tokenizer must have a BOS or an EOS token to begin a text with, got none")


def _number(index: int) -> str:
    return f"sentence {index + 1}"


def refuse_unfit(
    sentences: Sentences, config: ModelConfig, *, name: Callable[[int], str] = _number
) -> None:
    """Refuse sentences that are not for a model.

    Args:
        sentences: with what is given before them.
        config: of the model.
        name: what messages call the sentence of an index.

    Raises:
        ValueError: naming the sentences with more tokens than the model has positions or none,
            and any token id that it has no embedding for.
    """
    tokens.refuse_unfit(sentences, limit=config.max_positions, vocab=config.vocab, name=name)


def compiled_likelihood(
    config: ModelConfig, mesh: Mesh, *, batch_tokens: int, dtype: DTypeLike
) -> Likelihood:
    """Return the function that gives log-likelihoods under models of a configuration.

    Of a sentence x it gives the sum of log p(x_i | x_1 ... x_(i-1)) over the tokens that are
    its `target`, the first excepted, in nats, at most 0; summed in float32. Sentences share rows
    and rows are split over "data"; neither changes a value but for rounding. The weights are
    not part of what is compiled: other weights, and other sentences in as many rows of the
    same length, are not compiled for again.

    All processes of the mesh must call it with the same sentences, and each gets all values.
    It raises a ValueError for what `refuse_unfit` refuses, and a MemoryError if a device has too
    little.

    Args:
        config: of the models, whose weights lie on `mesh`.
        mesh: with an axis "data".
        batch_tokens: positions computed at a time on each place along "data".
        dtype: to compute in, whatever that of the weights.

    Raises:
        ValueError: if models of this configuration are not causal, or have no head.
    """
    _refuse_without_likelihood(config)
    assemble = parameters.assembler(config, mesh, dtype=dtype)

    @partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def step(weights: dict[str, jax.Array], rows: Rows) -> Array:
        return _of_segments(assemble(weights), rows)

    def likelihood(model: Transformer, sentences: Sentences) -> Float64[np.ndarray, " sent"]:
        refuse_unfit(sentences, config)
        weights = parameters.weights(model)
        batches = even_batches(sentences, batch_tokens=batch_tokens, places=mesh.shape["data"])
        found = np.zeros(len(sentences.lengths), np.float64)
        for planned, rows in tqdm(batches, "likelihoods", leave=False, disable=quiet()):
            with naming_what_to_change(rows):
                totals = np.asarray(step(weights, place_whole(rows, mesh)))
            row, segment = np.nonzero(planned >= 0)
            found[planned[row, segment]] = totals[row, segment]
        return found

    return likelihood


def _refuse_without_likelihood(config: ModelConfig) -> None:
    if not config.causal or config.head.kind == "none":
        kind = "a decoder" if config.causal else "an encoder"
        head = "without a head" if config.head.kind == "none" else "with a head"
        raise ValueError(f"likelihoods need a decoder with a head, got {kind} {head}")


def _of_segments(model: Transformer, rows: Rows) -> Float32[Array, "row segment"]:
    """Return the log-likelihood of each segment; 0 for those that a row does not have."""
    losses = next_token_losses(model, model.run(rows).value, rows)
    # A row has no more segments than tokens: one shape, however many it has.
    sums = partial(jax.ops.segment_sum, num_segments=losses.shape[1] + 1)
    return -jax.vmap(sums)(losses, rows.segments)[:, 1:]


def predicted_tokens(sentences: Sentences) -> Int32[np.ndarray, " sent"]:
    """Return how many tokens of each sentence are predicted: not given, and not the first."""
    starts = np.cumsum(sentences.lengths) - sentences.lengths
    wanted = sentences.target.copy()
    wanted[starts] = False
    return np.add.reduceat(wanted, starts, dtype=np.int32)


def bits_per_byte(
    log_likelihoods: Float[np.ndarray, "lang sent"], byte_counts: Int[np.ndarray, "lang sent"]
) -> Float[np.ndarray, " lang"]:
    """Return the bits that a model needs for a byte of each language's text, at least 0.

    -sum(log_likelihoods) / (ln 2 * sum(byte_counts)), as `bits_per_byte` of
    lm-evaluation-harness. It does not depend on how a tokenizer cuts the text up, so that models
    can be compared; a language whose letters take more bytes needs fewer bits for each.

    Args:
        log_likelihoods: of whole texts, in nats.
        byte_counts: of the texts in UTF-8.
    """
    return -np.sum(log_likelihoods, axis=1) / (math.log(2) * np.sum(byte_counts, axis=1))
