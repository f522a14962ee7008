"""How likely text is under a causal language model: in nats, and in bits per byte."""

import math
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Float64, Int, Int32
from tqdm import tqdm

from ilo_jax import sharding
from ilo_jax.activations.forward import naming_what_to_change
from ilo_jax.compiling.program import by_parts
from ilo_jax.corpora.limits import refuse_unfit
from ilo_jax.corpora.packing import Rows, Sentences, even_batches
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.losses import next_token_losses
from ilo_jax.models.parameters import Weights
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import quiet

Likelihood = Callable[[Transformer, Sentences], Float64[np.ndarray, " sent"]]
"""Gives the log-likelihoods of sentences under a model."""


def compiled_likelihood(
    config: ModelConfig, mesh: Mesh, *, batch_tokens: int, dtype: DTypeLike
) -> Likelihood:
    """The function that gives log-likelihoods under models of a configuration.

    Of a sentence x it gives the sum of log p(x_i | x_1 ... x_(i-1)) over the tokens that are
    its `target`, the first excepted, in nats, at most 0; summed in float32. Sentences share rows
    and rows are split over "data"; neither changes a value but for rounding. The weights are
    not part of what is compiled: other weights, and other sentences in as many rows of the
    same length, are not compiled for again.

    All processes of the mesh must call it with the same sentences, and each gets all values.
    It raises a ValueError for what `refuse_unfit` refuses, and a MemoryError if a device has too
    little.

    Args:
        config: Of the models, whose weights lie on `mesh`.
        mesh: With an axis "data".
        batch_tokens: Positions computed at a time on each place along "data".
        dtype: To compute in, whatever that of the weights.

    Raises:
        ValueError: If models of this configuration are not causal, or have no head.
    """
    _refuse_without_likelihood(config)
    assemble = parameters.assembler(config, mesh, dtype=dtype)

    def of_segments(weights: Weights, rows: Rows) -> Array:
        return _of_segments(assemble(weights), rows)

    step = by_parts(of_segments, mesh, out_shardings=sharding.replicated(mesh))

    def likelihood(model: Transformer, sentences: Sentences) -> Float64[np.ndarray, " sent"]:
        refuse_unfit(sentences, config.limits)
        weights = parameters.weights(model)
        batches = even_batches(sentences, batch_tokens=batch_tokens, places=mesh.shape["data"])
        found = np.zeros(len(sentences.lengths), np.float64)
        for planned, rows in tqdm(batches, "likelihoods", leave=False, disable=quiet()):
            with naming_what_to_change(rows):
                placed = sharding.place_whole(rows, sharding.along_data(mesh))
                totals = np.asarray(step(weights, placed))
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
    """The log-likelihood of each segment, in nats; 0 for those that a row does not have."""
    losses = next_token_losses(model, model.run(rows).value, rows)
    # A row has no more segments than tokens: one shape, however many it has.
    sums = partial(jax.ops.segment_sum, num_segments=losses.shape[1] + 1)
    return -jax.vmap(sums)(losses, rows.segments)[:, 1:]


def predicted_tokens(sentences: Sentences) -> Int32[np.ndarray, " sent"]:
    """The number of tokens of each sentence that are predicted: not given, and not the first."""
    starts = np.cumsum(sentences.lengths) - sentences.lengths
    wanted = sentences.target.copy()
    wanted[starts] = False
    return np.add.reduceat(wanted, starts, dtype=np.int32)


def bits_per_byte(
    log_likelihoods: Float[np.ndarray, "lang sent"], byte_counts: Int[np.ndarray, "lang sent"]
) -> Float[np.ndarray, " lang"]:
    """The bits that a model needs for a byte of each language's text, at least 0.

    -sum(log_likelihoods) / (ln 2 * sum(byte_counts)), as `bits_per_byte` of
    lm-evaluation-harness. It does not depend on how a tokenizer cuts the text up, so that models
    can be compared; a language whose letters take more bytes needs fewer bits for each.

    Args:
        log_likelihoods: Of whole texts, in nats.
        byte_counts: Of the texts in UTF-8.
    """
    return -np.sum(log_likelihoods, axis=1) / (math.log(2) * np.sum(byte_counts, axis=1))
