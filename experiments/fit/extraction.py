"""The forward of an extraction."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.fit.counting import activations
from experiments.fit.workload import Asked, Made, Workload, made_by_parts
from experiments.settings import Extraction
from ilo_jax.activations.extraction import AHEAD
from ilo_jax.activations.forward import tapping
from ilo_jax.activations.planning import rows_at_once
from ilo_jax.activations.taps import Tap
from ilo_jax.corpora.packing import abstract_rows
from ilo_jax.models import parameters
from ilo_jax.models.flops import forward_flops
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import AnyMesh, along_data


def forward(
    config: Extraction, model: Transformer, mesh: AnyMesh, asked: Asked, taps: Sequence[Tap]
) -> Workload:
    """The forward of an extraction over a batch of rows that are full.

    Args:
        config: Of the extraction.
        model: Abstract.
        mesh: With axes "data" and "model".
        asked: How long rows are, and how many sentences they hold.
        taps: What is taken.
    """
    each = rows_at_once(config.batch_tokens, row_length=asked.row_length)
    rows, length = each * mesh.shape["data"], asked.row_length
    weights = parameters.abstract_weights(
        model, mesh, dtype=jnp.dtype(config.param_dtype or config.dtype), fsdp=config.fsdp
    )
    given = abstract_rows(rows, length, sharding=along_data(mesh))

    def compile() -> Made:
        assert isinstance(mesh, Mesh)
        dtype, segments = jnp.dtype(config.dtype), asked.segments
        step = tapping(model.config, mesh, taps, segments=segments, dtype=dtype)
        return made_by_parts(step, weights, given)

    # The longer sentences are, the more pairs of tokens attention has: this is the least.
    sentences = np.full(rows * asked.segments, max(1, length // asked.segments))
    return Workload(
        f"extraction of {rows} rows of {length} tokens, up to {asked.segments} sentences each",
        {"weights": weights, "rows": given},
        beside=_beside(config, model, mesh, each * length, each * _numbers(taps, asked)),
        operations=forward_flops(model.config, sentences) / mesh.size,
        dtype=config.dtype,
        results=AHEAD + 1,
        compile=compile,
    )


def _numbers(taps: Sequence[Tap], asked: Asked) -> int:
    """How many numbers the taps take from a row."""
    vectors = {True: asked.row_length, False: asked.segments}
    return sum(len(tap.layers) * tap.width * vectors[tap.pooling == "tokens"] for tap in taps)


def _beside(
    config: Extraction, model: Transformer, mesh: AnyMesh, tokens: int, numbers: int
) -> int:
    block = activations(model.config, mesh, fsdp=config.fsdp)
    # What is pooled is stacked, and lies there twice for a moment.
    results = 4 * numbers * (AHEAD + 2)
    return (tokens * block.token + block.weights) * jnp.dtype(config.dtype).itemsize + results
