"""Several processes that run one program: how they agree, and share the work."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ilo_jax.files import locked

T = TypeVar("T")


def quiet() -> bool | None:
    """What tqdm takes as `disable`: only the first process shows progress."""
    return True if jax.process_index() else None


def together(step: Callable[[], T], *, what: str) -> T:
    """What a step gives; if it fails on any process, it fails on all.

    Without this, the others would wait for the one that failed, for ever.

    Args:
        step: Done by every process, without speaking to the others.
        what: It does, for the message.

    Raises:
        RuntimeError: On the processes where it did not fail itself; on the others whatever it
            raised there.
    """
    if jax.process_count() == 1:
        return step()
    here = True
    try:
        result = step()
        here = False
    finally:  # what was raised, an interruption too, goes on once the others know of it
        failed = gathered(np.array([here]))
    if failed.any():
        raise RuntimeError(f"{what} failed on process {np.flatnonzero(failed).tolist()}")
    return result


@contextmanager
def alone(url: str) -> Iterator[None]:
    """Keep other runs out of a folder, by the first process for all of this run.

    Raises:
        OSError: If another run is there.
        RuntimeError: If the first process could not.
    """
    with ExitStack() as held:
        first = jax.process_index() == 0
        together(lambda: first and held.enter_context(locked(url)), what=f"locking {url}")
        yield


def by_first(step: Callable[[], bytes], *, what: str) -> bytes:
    """On all processes what a step gives on the first, which alone does it.

    Args:
        step: Done by the first process, without speaking to the others.
        what: It does, for the message.

    Raises:
        RuntimeError: On the other processes, if it fails.
    """
    given = together(lambda: step() if jax.process_index() == 0 else b"", what=what)
    (length,) = largest([len(given)])
    padded = np.frombuffer(given.ljust(length, b"\0"), np.uint8)
    return gathered(padded)[0].tobytes()


def gathered(values: np.ndarray) -> np.ndarray:
    """What every process has, "process ...", on all of them."""
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values)).reshape(-1, *values.shape)


def agree(digest: bytes, *, what: str) -> None:
    """Stop on all processes if they have different digests of what should be one thing.

    Raises:
        RuntimeError: Naming the processes that differ from the first.
    """
    digests = gathered(np.frombuffer(digest, np.uint8))
    other = np.flatnonzero((digests != digests[:1]).any(axis=1))
    if len(other):
        raise RuntimeError(f"{what} is not the same on process {other.tolist()} as on the first")


def largest(values: Sequence[int]) -> list[int]:
    """The largest that any process has of each."""
    return gathered(np.asarray(values, np.int32)).max(axis=0).tolist()


class Share(NamedTuple):
    """Which part of the data is this process's to prepare."""

    index: int
    """Number of the part, from 0."""
    count: int
    """How many parts there are."""
    first: bool
    """Whether this process is the first of those that prepare the part."""
    width: int
    """How many places along "data" the part feeds."""


def share(mesh: Mesh) -> Share:
    """This process's share of what is split over "data".

    Processes whose devices lie at the same places along "data", because the model is split
    over all of them, prepare the same part.

    Raises:
        ValueError: If the places of two processes overlap but are not the same, or this one
            has none.
    """
    owners: dict[int, frozenset[int]] = {}
    devices = mesh.devices.reshape(mesh.shape["data"], -1)
    for process in {device.process_index for device in devices.ravel()}:
        places = [i for i, row in enumerate(devices) for d in row if d.process_index == process]
        owners[process] = frozenset(places)
    parts = sorted(set(owners.values()), key=min)
    if jax.process_index() not in owners:
        raise ValueError(
            f"process {jax.process_index()} has none of the {mesh.size} devices in use"
        )
    if sum(map(len, parts)) != len(devices):
        raise ValueError(
            f"a mesh of data={mesh.shape['data']}, model={mesh.shape['model']} does not divide "
            f"over {len(owners)} processes: model must divide the devices of one process, or be a "
            "multiple of them"
        )
    own = owners[jax.process_index()]
    first = min(process for process, places in owners.items() if places == own)
    return Share(parts.index(own), len(parts), first == jax.process_index(), len(own))


def own_part(array: jax.Array, *, axis: int) -> np.ndarray:
    """The part of an array on this process's devices; it is split along one axis only."""
    parts = {shard.index[axis].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)], axis=axis)


def in_order(arrays: T) -> T:
    """The same arrays; on several CPU devices, once they are there.

    Programs that were started one after the other may begin there to exchange what they have in
    another order on each device, or of each process, and would wait for each other forever.
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.block_until_ready(arrays)
    return arrays
