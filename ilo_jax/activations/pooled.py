"""Sentence embeddings of a held-out slice, in memory: for metrics that follow a training."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.activations.schedule import row_length
from ilo_jax.activations.taps import read, taken
from ilo_jax.corpora.packing import Placed, Sentences, fill, joined, place, plan
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import share
from ilo_jax.sharding import replicated

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
    """Return the function from a model to the mean of each sentence at every hidden state.

    It is compiled once, whatever the weights are, and gives what `extract` would store. All
    processes give the same sentences.

    Args:
        config: of the model.
        sentences: of each language, as many of one as of another.
        mesh: with an axis "data".
        dtype: to compute in.
        batch_tokens: positions computed at a time on each place along "data".
    """
    together = joined(sentences)
    length = row_length(int(together.lengths.max()))
    planned = plan(together.lengths, row_length=length)
    rows = max(1, batch_tokens // length) * mesh.shape["data"]
    planned = np.pad(planned, ((0, -len(planned) % rows), (0, 0)), constant_values=-1)
    batches = [
        _placed(together, part, length, mesh)
        for part in planned.reshape(-1, rows, planned.shape[1])
    ]
    forward = _forward(config, mesh, segments=planned.shape[1], dtype=dtype)
    row, segment = np.nonzero(planned >= 0)
    order = np.argsort(planned[row, segment])
    at = (row * planned.shape[1] + segment)[order]

    @partial(jax.jit, out_shardings=replicated(mesh))
    def gathered(parts: list[Array]) -> Array:
        whole = jnp.concatenate(parts, axis=1)
        found = whole.reshape(len(whole), -1, whole.shape[-1])[:, at]
        return found.reshape(len(whole), len(sentences), -1, whole.shape[-1])

    return lambda model: gathered([forward(nnx.state(model), batch) for batch in batches])


def _placed(sentences: Sentences, planned: np.ndarray, length: int, mesh: Mesh) -> Placed:
    part = share(mesh)
    own = np.split(planned, part.count)[part.index]
    return place(fill(sentences, own, row_length=length), mesh)


def _forward(
    config: ModelConfig, mesh: Mesh, *, segments: int, dtype: DTypeLike
) -> Callable[[nnx.State, Placed], Array]:
    """Return the jitted function to the means of all states, "state row segment dim"."""
    like = parameters.abstract(config, dtype=dtype)
    like.mesh = mesh
    graph = nnx.graphdef(like)
    (tap,) = read("residual:mean", config)

    def forward(state: nnx.State, rows: Placed) -> Array:
        lowered = jax.tree.map(lambda weight: weight.astype(dtype), state)
        return taken(nnx.merge(graph, lowered), rows, [tap], count=segments)[tap.name]

    return jax.jit(forward, out_shardings=replicated(mesh))
