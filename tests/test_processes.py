import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ilo_jax import processes
from ilo_jax.processes import (
    Share,
    agree,
    gathered,
    in_order,
    largest,
    own_part,
    quiet,
    share,
    together,
)
from ilo_jax.sharding import along_data, make_mesh, replicated

# One process


def test_one_process_agrees_with_itself():
    assert gathered(np.array([3, 4])).tolist() == [[3, 4]]
    assert gathered(np.array(True)).tolist() == [True]
    assert largest([7, 2]) == [7, 2]
    agree(b"digest", what="the text")
    assert quiet() is None
    assert share(make_mesh(model=2)) == Share(index=0, count=1, first=True, width=4)


def test_one_process_steps_alone():
    assert together(lambda: 5, what="counting") == 5
    assert together(lambda: None, what="counting") is None

    def fail() -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match=r"^no disk$"):
        together(fail, what="writing")


# Several processes, as one of them sees it


@pytest.fixture
def others(monkeypatch):
    """Return what makes this one of several processes, of which all values are known."""

    def be(own: int, everyone: Sequence[Any]) -> list[np.ndarray]:
        given: list[np.ndarray] = []

        def allgather(values: np.ndarray) -> np.ndarray:
            given.append(values)
            return np.array(everyone, values.dtype).reshape(-1, *values.shape)

        monkeypatch.setattr(jax, "process_count", lambda: len(everyone))
        monkeypatch.setattr(jax, "process_index", lambda: own)
        monkeypatch.setattr(processes.multihost_utils, "process_allgather", allgather)
        return given

    return be


def test_the_largest_is_of_each_value(others):
    given = others(1, [[3, 1], [2, 5], [0, 4]])
    assert largest([2, 5]) == [3, 5]
    assert given[0].tolist() == [2, 5]


def test_only_the_first_process_shows_progress(others):
    others(0, [0, 0])
    assert quiet() is None
    others(1, [0, 0])
    assert quiet() is True


def test_processes_that_differ_are_named(others):
    digests = [list(digest) for digest in (b"abc", b"abd", b"abc", b"xbc")]
    others(2, digests)
    message = "the text is not the same on process [1, 3] as on the first"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        agree(b"abc", what="the text")
    others(0, digests[:1] * 2)
    agree(b"abc", what="the text")


def test_what_fails_on_another_process_fails_here(others):
    given = others(1, [True, False, True])
    with pytest.raises(RuntimeError, match=r"^writing failed on process \[0, 2\]$"):
        together(lambda: 5, what="writing")
    assert given[0].tolist() == [False]


@pytest.mark.parametrize(
    "error",
    [
        OSError("no disk"),
        ValueError("no text"),
        KeyError("no name"),
        jax.errors.JaxRuntimeError("no memory"),
        KeyboardInterrupt("no time"),
    ],
)
def test_what_fails_here_is_told_to_the_others_first(others, error):
    given = others(1, [False, True])

    def fail() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        together(fail, what="writing")
    assert given[0].tolist() == [True]


def test_what_fails_nowhere_gives_its_result(others):
    others(1, [False, False])
    assert together(lambda: 5, what="counting") == 5
    assert together(lambda: None, what="counting") is None


# Shares


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh shows."""

    id: int
    process_index: int


def mesh_of(owners: Sequence[Sequence[int]]) -> Mesh:
    """Return a mesh whose devices are of these processes, "data model"."""
    devices = np.empty(np.shape(owners), object)
    for number, place in enumerate(np.ndindex(devices.shape)):
        devices[place] = Device(number, owners[place[0]][place[1]])
    return Mesh(devices, ("data", "model"))


def shares(monkeypatch, owners: Sequence[Sequence[int]]) -> dict[int, Share]:
    """Return the share of each process."""
    found = {}
    for process in sorted({process for row in owners for process in row}):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found[process] = share(mesh_of(owners))
    return found


def test_each_process_prepares_its_own_places(monkeypatch):
    assert shares(monkeypatch, [[0], [0], [1], [1], [2], [2]]) == {
        0: Share(0, 3, True, 2),
        1: Share(1, 3, True, 2),
        2: Share(2, 3, True, 2),
    }


def test_parts_are_in_the_order_of_their_places(monkeypatch):
    assert shares(monkeypatch, [[1, 1], [1, 1], [0, 0], [0, 0]]) == {
        0: Share(1, 2, True, 2),
        1: Share(0, 2, True, 2),
    }


def test_places_of_a_process_need_not_lie_together(monkeypatch):
    assert shares(monkeypatch, [[0], [1], [0], [1]]) == {
        0: Share(0, 2, True, 2),
        1: Share(1, 2, True, 2),
    }


def test_processes_that_share_a_copy_of_the_model_prepare_the_same(monkeypatch):
    assert shares(monkeypatch, [[0, 0, 1, 1], [3, 3, 2, 2]]) == {
        0: Share(0, 2, True, 1),
        1: Share(0, 2, False, 1),
        2: Share(1, 2, True, 1),
        3: Share(1, 2, False, 1),
    }


def test_a_model_over_all_processes_leaves_one_part(monkeypatch):
    assert shares(monkeypatch, [[0, 1, 2]]) == {
        0: Share(0, 1, True, 1),
        1: Share(0, 1, False, 1),
        2: Share(0, 1, False, 1),
    }


@pytest.mark.parametrize(
    "owners", [[[0, 0, 0], [0, 1, 1], [1, 1, 1]], [[0, 0], [0, 1]], [[0, 1], [0, 0], [0, 0]]]
)
def test_places_that_overlap_are_refused_on_every_process(monkeypatch, owners):
    message = (
        f"a mesh of data={len(owners)}, model={len(owners[0])} does not divide over 2 "
        "processes: model must divide the devices of one process, or be a multiple of them"
    )
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            share(mesh_of(owners))


def test_a_process_without_a_place_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    with pytest.raises(ValueError, match=r"^process 2 has none of the 4 devices in use$"):
        share(mesh_of([[0, 0], [1, 1]]))


# Arrays


MESHES = pytest.mark.parametrize(
    ("data", "model"), [(1, 1), (8, 1), (4, 2), (2, 4), (1, 8), (2, 1), (3, 2)]
)
ARRAY = np.arange(24 * 24 * 2.0, dtype=np.float32).reshape(24, 24, 2)


@MESHES
@pytest.mark.parametrize("axis", [0, 1])
def test_own_part_is_all_of_an_array_where_there_is_one_process(data, model, axis):
    """Over "model" it is replicated, and counts once."""
    mesh = make_mesh(data=data, model=model)
    placed = jax.device_put(ARRAY, along_data(mesh, axis=axis))
    np.testing.assert_array_equal(own_part(placed, axis=axis), ARRAY)


@pytest.mark.parametrize("axis", [0, 1])
def test_own_part_of_what_is_not_split_is_the_whole(axis):
    placed = jax.device_put(ARRAY, replicated(make_mesh(data=4, model=2)))
    np.testing.assert_array_equal(own_part(placed, axis=axis), ARRAY)


def test_own_part_is_in_order_whatever_the_order_of_devices():
    devices = np.array(jax.devices())[[5, 2, 7, 0]].reshape(4, 1)
    placed = jax.device_put(ARRAY, along_data(Mesh(devices, ("data", "model"))))
    np.testing.assert_array_equal(own_part(placed, axis=0), ARRAY)


@pytest.mark.parametrize(
    ("backend", "devices", "waits"), [("cpu", 8, True), ("cpu", 1, False), ("tpu", 8, False)]
)
def test_only_several_cpu_devices_wait_for_what_was_started(monkeypatch, backend, devices, waits):
    waited, array = [], jax.numpy.ones(3)
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert in_order(array) is array
    assert waited == [array] * waits
