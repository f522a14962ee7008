"""How long things take in turn, and how much memory they need."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax


class Seconds(NamedTuple):
    """Of one call, or the medians of several."""

    wall: float
    """By the clock."""
    cpu: float
    """Of all threads together."""


def once(call: Callable[[], object]) -> Seconds:
    """Return how long a call takes, until all it gives is there."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def medians(seconds: Iterable[Seconds]) -> Seconds:
    """Return the median of each."""
    return Seconds(*map(statistics.median, zip(*seconds, strict=True)))


def alternating(
    calls: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, list[Seconds]]:
    """Return the times of calls made in turn, each once before to warm up."""
    for call in calls.values():
        once(call)
    times: dict[str, list[Seconds]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(once(call))
    return times


def anonymous(pid: int | str) -> int:
    """Return the anonymous memory of a process in bytes, 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("RssAnon")), 0)


def peak_beyond(call: Callable[[], object]) -> int:
    """Return by how much memory grows during a call: the device's, or else this process's."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        before = (device.memory_stats() or {}).get("bytes_in_use", 0)
        once(call)
        return (device.memory_stats() or {}).get("peak_bytes_in_use", 0) - before
    most, done, before = 0, threading.Event(), anonymous(os.getpid())

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    once(call)
    done.set()
    watcher.join()
    return max(0, most - before)
