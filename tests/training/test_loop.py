import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.training.loop import Every, Logged, told_to_stop, train
from ilo_jax.training.step import Measures, State


def batch(number: int) -> jax.Array:
    return jnp.int32(number)


@jax.jit
def step(state: State, number: jax.Array, bad: jax.Array) -> tuple[State, Measures]:
    """Add a number to a weight; the loss is the weight before."""
    weight = state.weights["a"]
    measures = Measures(weight, jnp.int32(4), jnp.where(number == bad, jnp.inf, 1.0))
    return State(state.step + 1, {"a": weight + number}, state.moments), measures


def begun(at: int = 0) -> State:
    return State(jnp.int32(at), {"a": jnp.float32(sum(range(at)))}, ())


def run(
    events: list, *, state: State | None = None, steps: int = 7, bad: int = -1, **every
) -> State:
    logs = every.pop("logs", [])

    def log(logged: Logged) -> None:
        logs.append(logged)
        events.append(("log", logged.step))

    of_step = every.pop("batch", batch)
    with told_to_stop() as stop:
        return train(
            lambda number, state: step(state, of_step(number), jnp.int32(bad)),
            begun() if state is None else state,
            steps=steps,
            every=Every(**every),
            save=lambda state: events.append(("save", int(state.step))),
            log=log,
            evaluate=lambda number, state: events.append(("evaluate", number, int(state.step))),
            stop=stop,
        )


def of(events: list, kind: str) -> list[int]:
    return [event[1] for event in events if event[0] == kind]


def test_every_step_is_taken_and_logged_once_in_order():
    logs, events, start = [], [], time.perf_counter()
    state = run(events, logs=logs)
    assert int(state.step) == 7
    assert float(state.weights["a"]) == sum(range(7))
    assert [logged.step for logged in logs] == [1, 2, 3, 4, 5, 6, 7]
    assert [logged.loss for logged in logs] == [sum(range(i)) for i in range(7)]
    assert {logged.count for logged in logs} == {4}
    assert all(logged.seconds > 0 for logged in logs)
    assert sum(logged.seconds for logged in logs) <= time.perf_counter() - start
    assert of(events, "save") == [7]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ({"at": frozenset({0, 1, 5})}, [0, 1, 5]),
        ({"at": frozenset({2, 3}), "evaluate": 3}, [0, 2, 3, 6, 7]),
    ],
)
def test_states_are_evaluated_besides_where_asked_for(every, expected):
    events = []
    run(events, **every)
    assert of(events, "evaluate") == expected


def test_evaluations_come_before_and_after_training_and_saves_after_evaluations():
    events = []
    run(events, evaluate=3, save=2)
    assert of(events, "evaluate") == [0, 3, 6, 7]
    assert all(number == steps for kind, number, *rest in events for steps in rest)
    assert of(events, "save") == [2, 4, 6, 7]
    assert events.index(("evaluate", 6, 6)) < events.index(("save", 6))
    assert events.index(("log", 6)) < events.index(("evaluate", 6, 6))


def test_a_step_is_logged_while_the_next_one_is_under_way():
    events = []
    run(events, batch=lambda number: (events.append(("batch", number)), batch(number))[1])
    assert events[:5] == [("batch", 0), ("batch", 1), ("log", 1), ("batch", 2), ("log", 2)]


def test_a_run_goes_on_where_another_ended():
    whole, events = [], []
    run(whole, evaluate=3, save=2)
    state = run(events, state=begun(4), evaluate=3, save=2)
    assert events == [event for event in whole if event[1] > 4]
    assert float(state.weights["a"]) == sum(range(7))


def test_nothing_is_left_to_do_after_the_last_step():
    events = []
    assert int(run(events, state=begun(7), evaluate=1, save=1).step) == 7
    assert events == []


@pytest.mark.parametrize("evaluate", [0, 1])
@pytest.mark.parametrize("save", [0, 1, 2])
def test_a_diverged_step_is_named_and_nothing_of_it_is_kept(save, evaluate):
    events = []
    with pytest.raises(FloatingPointError, match=r"step 4 diverged: loss 3\.0, gradient norm inf"):
        run(events, bad=3, save=save, evaluate=evaluate)
    assert of(events, "log") == [1, 2, 3]
    assert of(events, "evaluate") == ([0, 1, 2, 3] if evaluate else [])
    assert of(events, "save") == {0: [], 1: [1, 2, 3], 2: [2]}[save]


def test_a_loss_that_is_no_number_ends_the_run():
    state = State(jnp.int32(0), {"a": jnp.float32(np.nan)}, ())
    with pytest.raises(FloatingPointError, match=r"step 1 diverged: loss nan"):
        run([], state=state)


def test_told_to_stop_it_saves_first_and_goes_on_later():
    def told(number: int) -> jax.Array:
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(number)

    before = signal.getsignal(signal.SIGTERM)
    events = []
    state = run(events, batch=told, evaluate=5)
    assert int(state.step) == 4
    assert of(events, "log") == [1, 2, 3, 4]
    assert of(events, "save") == [4]
    assert signal.getsignal(signal.SIGTERM) is before
    state = run(events, state=state, evaluate=5)
    assert float(state.weights["a"]) == sum(range(7))
    assert of(events, "evaluate") == [0, 5, 7]


@pytest.mark.parametrize("asked", [False, True])
def test_told_too_late_for_any_step_it_ends_when_all_is_written(monkeypatch, asked):
    """Unless a step was asked after it: then the training has stopped there, and that is all."""
    received = []
    monkeypatch.setattr(signal, "raise_signal", received.append)
    with told_to_stop() as stop:
        assert not stop(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not asked or stop(1)
    assert received == ([] if asked else [signal.SIGTERM])


def test_a_thread_trains_without_listening():
    found = []
    thread = threading.Thread(target=lambda: found.append(run([])))
    thread.start()
    thread.join()
    assert int(found[0].step) == 7
