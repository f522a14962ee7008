"""The steps of a training, one after the other, to be stopped and continued at any of them."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils
from tqdm import tqdm

from ilo_jax.processes import quiet
from ilo_jax.training.step import Measures, State


class Logged(NamedTuple):
    """What a step leaves."""

    step: int
    """Its number, from 1."""
    loss: float
    """Loss of the step's batch before the update, in the unit of the loss."""
    count: int
    """How much counted in the loss."""
    gradient_norm: float
    seconds: float
    """Since the step before was through."""


class Every(NamedTuple):
    """How often something is done; always after the last step, too."""

    evaluate: int = 0
    """Steps, and before the first; 0: never."""
    save: int = 0
    """Steps; 0: only at the end, and where the run is told to stop."""
    at: frozenset[int] = frozenset()
    """Numbers of steps after which it is evaluated besides; 0: before the first."""

    def regular(self, step: int, *, last: bool) -> bool:
        """Whether so many steps are one of those between evaluations, or the last."""
        return self.evaluate > 0 and (last or step % self.evaluate == 0)

    def evaluates(self, step: int, *, last: bool) -> bool:
        """Whether a state is evaluated after so many steps."""
        return self.regular(step, last=last) or step in self.at


def train(
    take: Callable[[int, State], tuple[State, Measures]],
    state: State,
    *,
    steps: int,
    every: Every,
    save: Callable[[State], None],
    log: Callable[[Logged], None],
    evaluate: Callable[[int, State], None],
    stop: Callable[[int], bool],
) -> State:
    """Take steps until the last one, or until told to stop.

    What is logged of a step is read only when the next one runs, so that the devices never wait.
    Nothing is saved or evaluated before its loss has been seen to be finite.

    Args:
        take: Takes the step of a number, from 0; consumes the state and gives the one after it.
        state: To start from, at any step.
        steps: How many there are in all.
        every: How often to evaluate and save.
        save: Called with states.
        log: Called once for each step, in order.
        evaluate: Called with a number of steps, and the state after them, which the next consumes.
        stop: Says after each step, numbered from 0, whether to stop there; from `told_to_stop`.

    Returns:
        The state after the last step that was taken; it has been saved.

    Raises:
        FloatingPointError: Naming the step whose loss or gradient is not finite.
    """
    begun = int(state.step)
    if begun == 0 and every.evaluates(0, last=False):
        evaluate(0, state)
    reader = _Reader(log)
    bar = tqdm(total=steps, initial=begun, desc="training", unit="step", disable=quiet())
    with bar:
        for number in range(begun, steps):
            state, measures = take(number, state)
            reader.follow(number + 1, measures)
            bar.update()
            last = number + 1 == steps
            if every.evaluates(number + 1, last=last):
                reader.catch_up()
                evaluate(number + 1, state)
            # After the evaluation, so that a run that goes on from here has it behind it.
            stopping = stop(number)
            if last or stopping or _due(number + 1, every.save):
                reader.catch_up()
                save(state)
            if stopping:
                break
    return state


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Reader:
    """Reads what steps measured, one step late."""

    def __init__(self, log: Callable[[Logged], None]):
        self.log = log
        self.pending: tuple[int, Measures] | None = None
        self.last = time.perf_counter()

    def follow(self, step: int, measures: Measures) -> None:
        """Take the measures of a step, and read those of the one before."""
        self.catch_up()
        self.pending = step, measures

    def catch_up(self) -> None:
        """Wait for the last step and log it."""
        if self.pending is None:
            return
        step, measures = self.pending
        self.pending = None
        loss, count, norm = (array.item() for array in jax.device_get(measures))
        now = time.perf_counter()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"step {step} diverged: loss {loss}, gradient norm {norm}; a smaller "
                "learning_rate, a longer warmup or a smaller clip may help"
            )
        self.log(Logged(step, loss, count, norm, now - self.last))
        self.last = now


@contextmanager
def told_to_stop() -> Iterator[Callable[[int], bool]]:
    """Give a function that says, at each step, whether this job is being taken away.

    A SIGTERM that came too late for any step takes effect at the end: no process ignores one.
    Several processes agree on the step; JAX listens to SIGTERM for them. Only the main
    thread of a process can listen by itself.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    told, heeded = threading.Event(), threading.Event()

    def stop(step: int) -> bool:
        if told.is_set():
            heeded.set()
        return told.is_set()

    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
        if told.is_set() and not heeded.is_set():
            signal.raise_signal(signal.SIGTERM)
