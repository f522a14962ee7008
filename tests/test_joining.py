"""Processes find each other, or say in time whom they miss."""

import logging
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import jax
import pytest

from ilo_jax import joining
from ilo_jax.joining import join
from tests.pairs import free_port


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        (("host:1", None, None), "processes, process"),
        ((None, 2, None), "coordinator, process"),
        (("host:1", None, 0), "processes"),
        ((None, 2, 0), "coordinator"),
    ],
)
def test_joining_takes_all_that_describes_the_others_or_nothing(monkeypatch, given, absent):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
    message = f"give all of coordinator, processes, process, or none; got no {absent}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        join(given[0], processes=given[1], process=given[2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", 2, 2), "process must be from 0 to below processes"),
        (("host:1", 2, -1), "got process=-1 and processes=2"),
        (("host:1", 0, 0), "processes, which must be at least 1, got process=0 and processes=0"),
        (("host", 2, 0), "coordinator must be ADDRESS:PORT of process 0, such as host0:8476, got"),
        ((":8476", 2, 1), "got ':8476'"),
        (("host:65536", 2, 1), "got 'host:65536'"),
        (("host:0", 2, 1), "got 'host:0'"),
        (("host:x", 2, 1), "got 'host:x'"),
    ],
)
def test_what_names_no_process_is_refused_at_once(monkeypatch, given, message):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
    with pytest.raises(ValueError, match=re.escape(message)):
        join(given[0], processes=given[1], process=given[2])


@pytest.fixture
def initialize(monkeypatch) -> Callable[[Callable[..., None]], None]:
    """Put something in the place of what JAX joins by."""
    return lambda joins: monkeypatch.setattr(jax.distributed, "initialize", joins)


@pytest.mark.parametrize("process", [None, 0, 1])
def test_joining_tells_jax_what_is_given(initialize, process):
    """And that it is to wait for longer than we do: its end would be that of the process."""
    told: list[Any] = []
    given = (None, None, None) if process is None else (f"host:{free_port()}", 2, process)
    initialize(lambda *place, **times: told.append((place, times)))
    join(given[0], processes=given[1], process=given[2], patience=7)
    join(given[0], processes=given[1], process=given[2])
    for (place, times), patience in zip(told, (7, 100), strict=True):
        assert place == given
        assert times["heartbeat_timeout_seconds"] == patience
        assert times["initialization_timeout"] >= 2 * patience


def test_a_port_that_is_taken_is_named(initialize):
    initialize(lambda *_, **__: pytest.fail("joined"))
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        message = (
            f"cannot listen at the port of coordinator, {port}: Address already in use; choose"
        )
        with pytest.raises(OSError, match=message):
            join(f"localhost:{port}", processes=2, process=0)


def test_where_jax_knows_no_others_what_to_give_is_said(initialize):
    def refuse(*place: Any, **times: int) -> None:
        raise ValueError("coordinator_address should be defined.")

    initialize(refuse)
    with pytest.raises(ValueError, match=r"give --coordinator=ADDRESS:PORT, --processes and --pro"):
        join()


def test_what_jax_refuses_is_raised(initialize):
    def refuse(*place: Any, **times: int) -> None:
        raise RuntimeError("called twice")

    initialize(refuse)
    with pytest.raises(RuntimeError, match=r"^called twice$"):
        join(f"host:{free_port()}", processes=2, process=0)


@pytest.mark.parametrize(
    ("processes", "process", "awaited"),
    [
        (2, 0, "process 1 to come to {}"),
        (4, 0, "processes 1 to 3 to come to {}"),
        (2, 1, "process 0 at {} (.*refused)"),
        (None, None, "the other processes that JAX knows of"),
    ],
)
def test_who_does_not_come_in_time_is_named(
    initialize, monkeypatch, caplog, processes, process, awaited
):
    never = threading.Event()
    initialize(lambda *_, **__: never.wait())
    monkeypatch.setattr(joining, "SPEAK_SECONDS", 0.7)
    place = None if process is None else f"127.0.0.1:{free_port()}"
    awaited = awaited.replace("(", r"\(").replace(")", r"\)").format(place)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TimeoutError, match=f"^waited 1 s in vain for {awaited}; start all"),
    ):
        join(place, processes=processes, process=process, patience=1)
    never.set()
    (line,) = caplog.messages
    assert re.fullmatch(f"waiting for {awaited}: 0 s are left", line)


def test_that_somebody_is_at_the_address_is_said():
    with socket.create_server(("127.0.0.1", 0)) as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        said = joining._Place(address, 3, 1).awaited()
    assert said == f"the other processes; somebody is at {address}"
