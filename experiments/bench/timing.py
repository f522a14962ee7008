"""How long things take in turn, and how much memory they need."""

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Seconds(NamedTuple):
    """Seconds of one call, or the medians of several."""

    wall: float
    """By the clock."""
    cpu: float
    """CPU seconds of all threads together."""


class Timed(NamedTuple):
    """A call that was made."""

    seconds: Seconds
    """How long it took until all it gives was there."""
    result: Any
    """What it gave."""


def once(call: Callable[[], Any]) -> Timed:
    """Make a call and time it."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return Timed(Seconds(time.perf_counter() - wall, time.process_time() - cpu), result)


def medians(seconds: Iterable[Seconds]) -> Seconds:
    """The median of each."""
    return Seconds(*map(statistics.median, zip(*seconds, strict=True)))


def alternating(calls: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, Timed]:
    """The median times of calls made in turn, and their last results.

    Each is made once before, to warm up.
    """
    for call in calls.values():
        once(call)
    made: dict[str, list[Timed]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            # Results of earlier rounds are not kept.
            made[name] = [Timed(m.seconds, None) for m in made[name]] + [once(call)]
    return {
        name: Timed(medians(m.seconds for m in each), each[-1].result)
        for name, each in made.items()
    }


def last_line(text: str) -> str:
    """What a process that failed said last."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def anonymous(pid: int | str) -> int:
    """The anonymous memory of a process in bytes, 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("RssAnon")), 0)


def peak_beyond(call: Callable[[], Any]) -> tuple[Seconds, int]:
    """How long a call takes, and by how much memory grows: the device's, or the process's.

    Of a process, anonymous memory: file pages that the kernel may drop are not counted.
    """
    # What is garbage now would be given back meanwhile.
    gc.collect()
    device = jax.devices()[0]
    if device.platform != "cpu":
        before = (device.memory_stats() or {}).get("bytes_in_use", 0)
        seconds = once(call).seconds
        return seconds, (device.memory_stats() or {}).get("peak_bytes_in_use", 0) - before
    most, done, before = 0, threading.Event(), anonymous(os.getpid())

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds = once(call).seconds
    finally:  # or the process of a call that fails would never end
        done.set()
        watcher.join()
    return seconds, max(0, most - before)
