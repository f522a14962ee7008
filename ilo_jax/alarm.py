"""A process that fails tells the others why, so that they need not wait until it counts as gone."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax

# JAX has no public way to the keys that its processes share; orbax takes this one, too.
from jax._src import distributed

KEY = "ilo_jax/failed"
"""Of the first failure."""
SECONDS = 0.5
"""Between two looks for it."""


def tell(problem: str) -> str:
    """Tell the other processes that this one fails, if no other was first.

    Args:
        problem: In one line.

    Returns:
        What was told first; the problem itself where nobody can be told.
    """
    client = _client()
    if client is None:
        return problem
    with suppress(jax.errors.JaxRuntimeError):  # another was first, or the first process is gone
        client.key_value_set(KEY, f"process {jax.process_index()} failed: {problem}")
    return _told(client) or problem


def let_hear() -> None:
    """Give the others time to hear, on the first process: what they ask goes with it."""
    if jax.process_index() == 0:
        time.sleep(4 * SECONDS)


@contextmanager
def listening(heard: Callable[[str], None]) -> Iterator[None]:
    """Listen meanwhile whether another process fails.

    Args:
        heard: Called from a thread, once, with which process it was, and why.
    """
    client, over = _client(), threading.Event()
    if client is None:
        yield
        return

    def listen() -> None:
        while not over.wait(SECONDS):
            if problem := _told(client):
                heard(problem)
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _told(client: Any) -> str:
    """What was told first; empty if nothing was, or the first process cannot be asked."""
    with suppress(jax.errors.JaxRuntimeError):
        return client.key_value_try_get(KEY)
    return ""


def _client() -> Any:
    """JAX's way to the other processes, None where there are none."""
    return distributed.global_state.client
