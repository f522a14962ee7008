"""What the frozen first blocks make of the text, computed once and kept."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from ilo_jax.activations.store import numpy_dtype
from ilo_jax.compiling.program import by_parts
from ilo_jax.corpora.packing import Rows
from ilo_jax.files import whole
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.parameters import Weights
from ilo_jax.processes import gathered, own_part, quiet, share, together
from ilo_jax.sharding import along_data, place_own
from ilo_jax.training.order import Order, Text, own_rows, own_slots, place_parts


class KeptStates(NamedTuple):
    """The hidden states of this process's rows before the lowest block that trains."""

    states: np.ndarray
    """ "row seq dim", in memory or mapped from a file."""
    numbers: Int[np.ndarray, " row"]
    """Numbers of these rows in the text, ascending."""

    def at(self, order: Order, step: int, mesh: Mesh) -> Float[Array, "part row seq dim"]:
        """The states of a step's rows on the devices; those of padding are 0."""
        wanted = order.at(step)[:, own_slots(order, share(mesh))].ravel()
        found = np.zeros((len(wanted), *self.states.shape[1:]), self.states.dtype)
        found[wanted >= 0] = self.states[np.searchsorted(self.numbers, wanted[wanted >= 0])]
        return place_parts(found, order.parts, mesh)


def compute_kept_states(
    config: ModelConfig,
    weights: Weights,
    text: Text,
    order: Order,
    mesh: Mesh,
    *,
    blocks: int,
    dtype: str,
    file: Path | None,
) -> KeptStates:
    """The hidden state after the first blocks, for all rows of this process.

    It changes what a step costs, never what it computes: in the dtype of the computation the
    state is what the blocks would have given again, within the rounding of another batch.

    Cost: one pass of the text through these blocks; seq * dim numbers a row to keep.

    Args:
        config: Of the model.
        weights: Of all of it.
        text: In rows.
        order: Of its rows.
        mesh: On which the weights lie.
        blocks: How many, all frozen, and the embedding, too.
        dtype: Of the computation and of what is kept: "float32" or "bfloat16".
        file: To keep it in, or to take it from if it is there; None: in memory. Its name must
            tell models, texts, orders, numbers of blocks, dtypes and processes apart.

    Raises:
        OSError: If the file cannot be written.
        RuntimeError: If it cannot on another process.
        ValueError: If a file is there that is not of this size.
    """
    numbers = own_rows(order, mesh)
    shape = (len(numbers), text.row_length, config.dim)
    there = together(lambda: file and _is_there(file, shape, dtype), what=f"looking for {file}")
    if not gathered(np.array(bool(there))).all():
        forward = _forward(config, weights, mesh, blocks=blocks, dtype=dtype)
        parts = _computed(forward, text, order, mesh)
        if file is None:
            nothing = np.zeros((0, *shape[1:]), numpy_dtype(dtype))
            return KeptStates(np.concatenate([nothing, *parts]), numbers)
        _write(file, parts)
    assert file is not None
    mapped = partial(np.memmap, file, numpy_dtype(dtype), mode="r", shape=shape)
    return KeptStates(together(mapped, what=f"reading {file}"), numbers)


def _is_there(file: Path, shape: tuple[int, ...], dtype: str) -> bool:
    if not file.is_file():
        return False
    expected = math.prod(shape) * numpy_dtype(dtype).itemsize
    if (size := file.stat().st_size) != expected:
        raise ValueError(f"{file} must have {expected} bytes for {shape} {dtype}, got {size}")
    return True


def _forward(
    config: ModelConfig, weights: Weights, mesh: Mesh, *, blocks: int, dtype: DTypeLike
) -> Callable[[Rows], Array]:
    """The compiled function from rows to the state after the first blocks."""
    assemble = parameters.assembler(config, mesh, dtype=dtype)

    def forward(weights: Weights, rows: Rows) -> Array:
        return assemble(weights).run(rows, blocks=range(blocks)).value

    return partial(by_parts(forward, mesh, out_shardings=along_data(mesh)), weights)


def _computed(
    forward: Callable[[Rows], Array], text: Text, order: Order, mesh: Mesh
) -> Iterator[np.ndarray]:
    """Give the states of this process's rows, as many at a time as a part of a batch has."""
    slots = own_slots(order, share(mesh))
    starts = range(0, order.epoch * order.batch, order.part_rows)
    for start in tqdm(starts, desc="frozen blocks", unit="batch", disable=quiet()):
        numbers = np.arange(start, start + order.part_rows)[slots]
        rows = text.rows(np.where(numbers < order.rows, numbers, -1))
        yield own_part(forward(place_own(rows, along_data(mesh))), axis=0)[numbers < order.rows]


def _write(file: Path, parts: Iterator[np.ndarray]) -> None:
    """Write the states one after the other, whole or not at all; if one process fails, all do."""
    what = f"writing {file}"
    with ExitStack() as held:
        stream = together(lambda: held.enter_context(_opened(file)), what=what)
        for part in parts:
            together(partial(part.tofile, stream), what=what)
        together(held.close, what=what)


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Give a stream into a file that is seen when it is whole."""
    with whole(file) as beside, beside.open("wb") as stream:
        yield stream
