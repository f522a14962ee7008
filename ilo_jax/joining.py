"""How several processes that run one program find each other, or say whom they miss."""

import logging
import os
import re
import socket
import threading
import time
from concurrent.futures import Future, wait
from typing import NamedTuple

import jax

log = logging.getLogger(__name__)

PATIENCE = 100
"""Seconds after which a process that has not come, or is silent, counts as gone."""
SPEAK_SECONDS = 30
"""Time between two lines that say who is awaited."""
PROBE_SECONDS = 2
"""How long the first process may take to answer a probe."""


def join(
    coordinator: str | None = None,
    *,
    processes: int | None = None,
    process: int | None = None,
    patience: int = PATIENCE,
) -> None:
    """Make this process one of several that compute together; before any other use of JAX.

    On Cloud TPU, Slurm and Open MPI, JAX finds all of it by itself. While others are awaited, a
    warning is logged every `SPEAK_SECONDS`.

    Args:
        coordinator: "address:port" of the first process.
        processes: How many there are.
        process: Which of them this is, from 0.
        patience: Seconds after which a process that has not come counts as gone; and, once all
            are there, a silent one: the others then end, too.

    Raises:
        OSError: If the port of the first process, which this is, is taken.
        RuntimeError: If JAX cannot join them, or was used before.
        TimeoutError: If the others have not come. A thread still waits for them: the process
            must end.
        ValueError: If only some of the first three are given, or they cannot be; or if none is,
            where JAX does not know them.
    """
    place = _Place(coordinator, processes, process)
    _check(place)
    joining = _begun(place, patience)
    _wait(joining, place, patience)
    if coordinator is None and isinstance(error := joining.exception(), ValueError):
        raise ValueError(
            "here JAX does not know the other processes, as on Cloud TPU, Slurm and Open MPI "
            f"({error}); give --coordinator=ADDRESS:PORT, --processes and --process"
        ) from error
    joining.result()


class _Place(NamedTuple):
    """Which process this is, of which; None for what JAX is to find."""

    coordinator: str | None
    processes: int | None
    process: int | None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first process."""
        host, _, port = str(self.coordinator).rpartition(":")
        if not host or not re.fullmatch("[0-9]+", port) or not 0 < int(port) < 2**16:
            raise ValueError(
                "coordinator must be ADDRESS:PORT of process 0, such as host0:8476, got "
                f"{self.coordinator!r}"
            )
        return host.strip("[]"), int(port)

    def awaited(self) -> str:
        """Who has not come, as far as this process can know."""
        if self.coordinator is None or self.processes is None:
            return "the other processes that JAX knows of"
        if self.process == 0:
            others = f"processes 1 to {self.processes - 1}" if self.processes > 2 else "process 1"
            return f"{others} to come to {self.coordinator}"
        try:
            socket.create_connection(self.address, PROBE_SECONDS).close()
        except OSError as error:
            return f"process 0 at {self.coordinator} ({error})"
        return f"the other processes; somebody is at {self.coordinator}"


def _check(place: _Place) -> None:
    """Refuse what names no processes, and a port that the first could not use."""
    absent = [name for name, value in place._asdict().items() if value is None]
    if len(absent) == len(place):
        return
    if absent:
        names = ", ".join(place._fields)
        raise ValueError(f"give all of {names}, or none; got no {', '.join(absent)}")
    _, processes, process = place
    if not 0 <= (process or 0) < (processes or 0):
        raise ValueError(
            "process must be from 0 to below processes, which must be at least 1, got "
            f"process={process} and processes={processes}"
        )
    _, port = place.address
    if process == 0:
        _refuse_taken(port)


def _refuse_taken(port: int) -> None:
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        said = os.strerror(error.errno or 0)
        raise OSError(
            f"process 0 cannot listen at the port of coordinator, {port}: {said}; choose another, "
            "the same on all processes"
        ) from error


def _begun(place: _Place, patience: int) -> "Future[None]":
    """Let a thread join the others: JAX would end the whole process when its time is over."""
    joining: Future[None] = Future()

    def join() -> None:
        try:
            jax.distributed.initialize(
                *place,
                initialization_timeout=2 * patience + SPEAK_SECONDS,
                heartbeat_timeout_seconds=patience,
            )
            joining.set_result(None)
        except (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            joining.set_exception(error)

    threading.Thread(target=join, daemon=True).start()
    return joining


def _wait(joining: "Future[None]", place: _Place, patience: int) -> None:
    """Wait until it is known whether the others could be joined, and say for whom."""
    until = time.monotonic() + patience
    while not wait([joining], max(0, min(SPEAK_SECONDS, until - time.monotonic()))).done:
        left, awaited = until - time.monotonic(), place.awaited()
        if left <= 0:
            raise TimeoutError(
                f"waited {patience} s in vain for {awaited}; start all processes within that "
                "time, or with a longer --patience"
            )
        log.warning("waiting for %s: %.0f s are left", awaited, left)
