"""Sentence embeddings of a held-out slice, in memory: for metrics that follow a training."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ilo_jax.activations.forward import naming_what_to_change
from ilo_jax.activations.taps import read, taken
from ilo_jax.compiling.program import by_parts
from ilo_jax.corpora.packing import Plan, Rows, Sentences, even_batches, joined
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import along_data, place_whole, replicated

Pooled = Callable[[Transformer], Float[Array, "state lang sent dim"]]
"""From a model to its sentence embeddings, a whole copy on every device."""


def compiled_pooled(
    config: ModelConfig,
    sentences: Sequence[Sentences],
    mesh: Mesh,
    *,
    dtype: DTypeLike,
    batch_tokens: int,
) -> Pooled:
    """The function from a model to the mean of each sentence at every hidden state.

    It is compiled once, whatever the weights are, and gives what `extract` would store. All
    processes give the same sentences.

    Args:
        config: Of the model.
        sentences: Of each language, as many of one as of another.
        mesh: With an axis "data".
        dtype: To compute in.
        batch_tokens: Positions computed at a time on each place along "data".

    Raises:
        MemoryError: When called, if a device has too little.
        ValueError: If the languages have different numbers of sentences.
    """
    counts = [len(of_language.lengths) for of_language in sentences]
    if len(set(counts)) != 1:
        raise ValueError(f"every language must have as many sentences, got {counts}")
    together = joined(sentences)
    parts = even_batches(together, batch_tokens=batch_tokens, places=mesh.shape["data"])
    planned, rows = zip(*parts, strict=True)
    batches = place_whole(rows, along_data(mesh))
    at = _places(np.concatenate(planned))
    forward = _forward(config, mesh, segments=planned[0].shape[1], dtype=dtype)

    @partial(jax.jit, out_shardings=replicated(mesh))
    def gathered(parts: list[Array]) -> Array:
        whole = jnp.concatenate(parts, axis=1)
        found = whole.reshape(len(whole), -1, whole.shape[-1])[:, at]
        return found.reshape(len(whole), len(sentences), -1, whole.shape[-1])

    def pooled(model: Transformer) -> Array:
        weights = parameters.weights(model)
        with naming_what_to_change(rows[0]):
            return jax.block_until_ready(gathered([forward(weights, batch) for batch in batches]))

    return pooled


def _places(planned: Plan) -> Int[np.ndarray, " sent"]:
    """Where each sentence is among all segments of all rows."""
    row, segment = np.nonzero(planned >= 0)
    return (row * planned.shape[1] + segment)[np.argsort(planned[row, segment])]


def _forward(
    config: ModelConfig, mesh: Mesh, *, segments: int, dtype: DTypeLike
) -> Callable[[dict[str, Array], Rows], Array]:
    """The compiled function to the means of all states, "state row segment dim"."""
    assemble = parameters.assembler(config, mesh, dtype=dtype)
    (tap,) = read("residual:mean", config)

    def forward(weights: dict[str, Array], rows: Rows) -> Array:
        return taken(assemble(weights), rows, [tap], count=segments)[tap.name]

    return by_parts(forward, mesh, out_shardings=replicated(mesh))
