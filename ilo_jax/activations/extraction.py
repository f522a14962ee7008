"""A model over a corpus: sentences in, what the taps take from the model into a store."""

import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array
from tqdm import tqdm

from ilo_jax.activations.forward import Forward, compiled_forward, naming_what_to_change
from ilo_jax.activations.gathering import Gathering
from ilo_jax.activations.planning import Step, planned, steps_of
from ilo_jax.activations.schedule import Batch
from ilo_jax.activations.store import Store
from ilo_jax.activations.taps import Tap
from ilo_jax.corpora.packing import Sentences
from ilo_jax.models.flops import forward_flops
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import gathered, largest, quiet, share

AHEAD = 2
"""Batches that are prepared before they are needed, and computed before they are stored."""

T = TypeVar("T")


class Report(NamedTuple):
    """What an extraction did, on all processes."""

    tokens: int
    """Real tokens, special tokens included."""
    padding: float
    """Share of the computed positions that hold no token."""
    compile_seconds: float
    """Wall time until the forward was compiled."""
    seconds: float
    """Wall time of all batches after that, writing included."""
    cpu_seconds: float
    """CPU time of this process in these seconds, of all its threads."""
    flops: float
    """Operations that the model needs for these tokens, by `models.flops`."""
    host_bytes: int
    """The most that any process has held so far."""
    device_bytes: int
    """The most that any of the first devices of a process has held; 0 where it does not say."""


def extract(
    model: Transformer,
    sentences: Mapping[int, Sentences],
    store: Store,
    mesh: Mesh,
    *,
    taps: Sequence[Tap],
    batch_tokens: int,
    dtype: DTypeLike,
) -> Report:
    """Compute and store what is missing of this process's languages.

    Languages are packed in blocks and written as soon as their block is whole. A run
    that was killed continues with the blocks that are not, packed as before: on the
    same devices, with the same `batch_tokens`, it ends bit-equal to one that was not.
    While the devices compute, one thread prepares the next rows and another writes.
    All processes of the mesh must call it.

    Args:
        model: Whose weights lie on `mesh`.
        sentences: Of each of this process's languages, by index.
        store: Receives what is taken from each language.
        mesh: Rows are sharded over its axis "data".
        taps: What to take.
        batch_tokens: Positions computed at a time on each place along "data".
        dtype: To compute in, whatever that of the weights.

    Raises:
        MemoryError: If a device has too little for it.
        OSError: If the store cannot be written.
        UnusableError: If something is not finite, or a state all zero; see `usable.naming`.
    """
    begun = time.perf_counter()
    own = share(mesh)
    plan = planned(model.config, sentences, store, taps, batch_tokens=batch_tokens, width=own.width)
    steps = steps_of(plan)
    forwards = [
        compiled_forward(
            model, mesh, taps, rows=plan.padding(kind).rows, segments=segments, dtype=dtype
        )
        for kind, segments in enumerate(largest(plan.segments))
    ]
    compiled, cpu = time.perf_counter(), time.process_time()
    gathering = Gathering(plan, store, taps) if own.first else None
    lengths = plan.lengths()
    with tqdm(total=int(lengths.sum()), desc="hidden states", unit="token", disable=quiet()) as bar:
        _run(steps, forwards, gathering, bar)
    seconds, cpu_seconds = time.perf_counter() - compiled, time.process_time() - cpu
    tokens = gathered(np.array(own.first * lengths.sum(), np.int32)).sum(dtype=np.int64)
    flops = gathered(np.array(own.first * forward_flops(model.config, lengths), np.float32))
    positions = sum(plan.rows[step.kind] * plan.row_lengths[step.kind] for step in steps)
    return Report(
        tokens=int(tokens),
        padding=float(1 - tokens / (own.count * positions)) if positions else 0.0,
        compile_seconds=compiled - begun,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        flops=float(flops.sum(dtype=np.float64)),
        host_bytes=_most(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
        device_bytes=_most(
            (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        ),
    )


def _run(
    steps: Sequence[Step], forwards: Sequence[Forward], gathering: Gathering | None, bar: tqdm
) -> None:
    """Compute all batches; threads prepare the next ones and store those before."""
    batches = _ahead(step.make for step in steps)
    stored: deque[Future[int]] = deque()
    with ThreadPoolExecutor(1) as writer:
        for step, batch in zip(steps, batches, strict=True):
            found = forwards[step.kind](batch.rows)
            stored.append(writer.submit(_take, gathering, batch, found))
            if len(stored) > AHEAD:
                bar.update(stored.popleft().result())
        for tokens in stored:
            bar.update(tokens.result())


def _take(gathering: Gathering | None, batch: Batch, found: Mapping[str, Array]) -> int:
    """Store what was found, if this process is the one that does and there is something."""
    with naming_what_to_change(batch.rows):
        jax.block_until_ready(found)
    return gathering.take(batch, found) if gathering and batch.block >= 0 else 0


def _ahead(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield what calls return, made in turn by a thread before they are needed."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for call in calls:
            waiting.append(thread.submit(call))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _most(value: int) -> int:
    """The largest of all processes, to a MiB."""
    return largest([value >> 20])[0] << 20
