"""What one process dies of, the others are told at once."""

import threading
from types import SimpleNamespace

import jax
import pytest
from jax._src import distributed

from ilo_jax import alarm


class Keys:
    """The keys that processes share, as JAX's client has them."""

    def __init__(self):
        self.values: dict[str, str] = {}

    def key_value_set(self, key: str, value: str) -> None:
        if key in self.values:
            raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: {key}")
        self.values[key] = value

    def key_value_try_get(self, key: str) -> str:
        if key not in self.values:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: {key}")
        return self.values[key]


@pytest.fixture
def keys(monkeypatch) -> Keys:
    keys = Keys()
    monkeypatch.setattr(distributed, "global_state", SimpleNamespace(client=keys))
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    monkeypatch.setattr(alarm, "SECONDS", 0.01)
    return keys


def test_the_first_failure_is_told_and_heard_once(keys):
    told, heard = [], threading.Event()

    def hear(problem: str) -> None:
        told.append(problem)
        heard.set()

    with alarm.listening(hear):
        assert alarm.tell("no disk") == "process 2 failed: no disk"
        assert heard.wait(5)
        assert alarm.tell("connection closed") == "process 2 failed: no disk"
    assert told == ["process 2 failed: no disk"]


def test_where_nobody_fails_nothing_is_heard_and_nobody_listens_on(keys):
    before = threading.active_count()
    with alarm.listening(lambda problem: pytest.fail(problem)):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_where_nobody_can_be_asked_the_own_failure_stands(keys, monkeypatch):
    def gone(*_: str) -> str:
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: no service")

    monkeypatch.setattr(Keys, "key_value_set", gone)
    monkeypatch.setattr(Keys, "key_value_try_get", gone)
    assert alarm.tell("no disk") == "no disk"
    monkeypatch.setattr(distributed.global_state, "client", None)
    assert alarm.tell("no disk") == "no disk"
    with alarm.listening(lambda problem: pytest.fail(problem)):
        pass


def test_only_the_first_process_waits_for_others_to_hear(keys, monkeypatch):
    slept = []
    monkeypatch.setattr(alarm.time, "sleep", slept.append)
    alarm.let_hear()
    assert slept == []
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    alarm.let_hear()
    assert slept[0] >= 2 * alarm.SECONDS
