"""The compiled step of an extraction: packed rows in, what the taps take out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax import sharding
from ilo_jax.activations.taps import Tap, taken
from ilo_jax.compiling.program import ByParts, by_parts
from ilo_jax.corpora.packing import Rows
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.transformer import Transformer

Forward = Callable[[Rows], dict[str, Float[Array, "..."]]]


def tapping(
    config: ModelConfig, mesh: Mesh, taps: Sequence[Tap], *, segments: int, dtype: DTypeLike
) -> ByParts:
    """The function from all weights by path, and rows, to what the taps take, by parts.

    Args:
        config: Of the model.
        mesh: With an axis "data", along which rows and what is taken of them are split.
        taps: What to take.
        segments: The most that any row holds.
        dtype: To compute in, whatever that of the weights.
    """
    assemble = parameters.assembler(config, mesh, dtype=dtype)
    along = {
        tap.name: sharding.along_data(mesh, axis=0 if tap.pooling == "tokens" else 1)
        for tap in taps
    }

    def forward(weights: dict[str, Array], rows: Rows) -> dict[str, Array]:
        return taken(assemble(weights), rows, taps, count=segments)

    return by_parts(forward, mesh, out_shardings=along)


def compiled_forward(
    model: Transformer,
    mesh: Mesh,
    taps: Sequence[Tap],
    *,
    rows: Rows,
    segments: int,
    dtype: DTypeLike,
) -> Forward:
    """The forward that taps a model, compiled for one shape of rows.

    It takes the rows of this process's devices, and returns arrays split over "data" along
    "batch", before they are computed.

    Args:
        model: Whose weights lie on `mesh`.
        mesh: With an axis "data".
        taps: What to take.
        rows: An example.
        segments: The most that any row holds.
        dtype: To compute in, whatever that of the weights.

    Raises:
        MemoryError: Here and when called, if a device has too little for it.
    """
    weights, along_rows = parameters.weights(model), sharding.along_data(mesh)
    step = tapping(model.config, mesh, taps, segments=segments, dtype=dtype)
    with naming_what_to_change(rows):
        compiled = step.compiled(weights, sharding.place_own(rows, along_rows))

    def run(rows: Rows) -> dict[str, Array]:
        with naming_what_to_change(rows):
            return compiled(weights, sharding.place_own(rows, along_rows))

    return run


def naming_what_to_change(rows: Rows) -> AbstractContextManager[None]:
    """Say what to try where a device has too little memory to extract some rows.

    Raises:
        MemoryError: Instead of JAX's own error.
    """
    return sharding.naming_knobs(
        "{} rows of {} tokens".format(*rows.tokens.shape),
        "a smaller batch_tokens, dtype=bfloat16 (and param_dtype), or more devices to split the "
        "model over (model_parallel, fsdp)",
    )
