"""Kept states of frozen blocks change what a step costs, and nothing else."""

import errno
import math
import re
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from ilo_jax.processes import Share
from ilo_jax.training import kept_states as module
from ilo_jax.training import order as batches
from ilo_jax.training.kept_states import KeptStates, compute_kept_states
from ilo_jax.training.language import Batch
from tests.training.conftest import HEAD_ONLY, ROW_LENGTH, Training, distance, farthest

TOLERANCE = 1e-5
"""Of the norm of a sentence's states by torch."""
SAME = 1e-6
"""Of the norm of each weight, and of each loss: the order of sums may differ."""
SOME = 10
"""Steps, three epochs and more, some with rows of padding."""

LOWEST = pytest.mark.parametrize(
    ("freeze", "lowest"), [("paper:1", 1), ("paper:2", 2), (HEAD_ONLY, 3)]
)


def computed(some: Training, *, dtype: str = "float32", file: Path | None = None) -> KeptStates:
    return compute_kept_states(
        some.start.config,
        some.placed(frozen=False) | some.frozen,
        some.text,
        some.order,
        some.mesh,
        blocks=some.lowest,
        dtype=dtype,
        file=file,
    )


def with_states(some: Training, kept: KeptStates) -> Iterator[Batch]:
    for number in range(SOME):
        yield some.batch(number)._replace(kept=kept.at(some.order, number, some.mesh))


@pytest.mark.parametrize(
    ("freeze", "lowest"),
    [
        pytest.param("paper:1", 1, marks=pytest.mark.slow),
        ("paper:2", 2),
        pytest.param(HEAD_ONLY, 3, marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_without_it(training, trained, tmp_path, freeze, lowest):
    some = training("own", freeze)
    assert some.lowest == lowest
    expected = trained("own", freeze)
    in_memory, on_file = computed(some), computed(some, file=tmp_path / "states.bin")
    assert isinstance(on_file.states, np.memmap)
    assert on_file.states.dtype == in_memory.states.dtype == np.float32
    np.testing.assert_array_equal(on_file.states, in_memory.states)
    for kept in (in_memory, on_file):
        run = some.learn(with_states(some, kept))
        np.testing.assert_allclose(run.losses, expected.losses[:SOME], rtol=SAME)
        assert farthest(run.weights[-1], expected.weights[SOME]) <= SAME


@LOWEST
def test_states_are_torchs(training, freeze, lowest):
    """Whatever the row and its other sentences."""
    some = training("own", freeze)
    kept, (sentences, planned, _) = computed(some), some.text
    assert kept.states.shape == (some.order.rows, ROW_LENGTH, some.start.config.dim)
    assert kept.numbers.tolist() == [*range(some.order.rows)]
    starts = np.cumsum(sentences.lengths) - sentences.lengths
    for row in (0, 7, some.order.rows - 1):
        at = 0
        for i in planned[row][planned[row] >= 0]:
            ids = sentences.tokens[starts[i] : starts[i] + sentences.lengths[i]]
            with torch.no_grad():
                given = torch.from_numpy(ids).long()[None]
                states = some.start.torch(given, output_hidden_states=True).hidden_states
            found = kept.states[row, at : (at := at + len(ids))]
            assert distance(found, states[lowest][0].numpy()) <= TOLERANCE


@pytest.mark.slow
def test_bfloat16_is_within_its_rounding(training, tmp_path):
    half = training("own", "paper:2", dtype=jnp.bfloat16)
    kept = computed(half, dtype="bfloat16", file=tmp_path / "states.bin")
    assert kept.states.dtype == ml_dtypes.bfloat16
    assert kept.states.nbytes == (tmp_path / "states.bin").stat().st_size
    expected = half.learn(map(half.batch, range(SOME)))
    run = half.learn(with_states(half, kept))
    np.testing.assert_allclose(run.losses, expected.losses, rtol=2**-8)


def test_each_step_gets_the_states_of_its_rows(training):
    """Those of padding are 0."""
    some = training("own", "paper:1")
    order = some.order
    states = np.random.default_rng(0).normal(size=(order.rows, 3, 2)).astype(np.float32)
    kept, padding = KeptStates(states, np.arange(order.rows)), 0
    for step in range(2 * order.epoch):
        numbers = order.at(step)
        found = np.asarray(kept.at(order, step, some.mesh))
        assert found.shape == (order.parts, order.part_rows, 3, 2)
        for place, number in np.ndenumerate(numbers):
            np.testing.assert_array_equal(found[place], states[number] if number >= 0 else 0)
        padding += (numbers < 0).sum()
    assert padding > 0


def test_two_processes_have_the_states_of_their_own_rows(training, monkeypatch):
    some = training("own", "paper:1")
    whole = computed(some)
    of_all = [np.asarray(whole.at(some.order, step, some.mesh)) for step in range(SOME)]
    numbers = []
    for index, half in enumerate((slice(0, 4), slice(4, 8))):
        for place in (module, batches):
            monkeypatch.setattr(place, "share", lambda mesh, i=index: Share(i, 2, True, 1))
        kept = computed(some)
        numbers += kept.numbers.tolist()
        expected = whole.states[kept.numbers]
        assert distance(kept.states, expected) <= SAME
        for step, states in enumerate(of_all):
            found = np.asarray(kept.at(some.order, step, some.mesh))
            assert distance(found, states[:, half]) <= SAME
    assert sorted(numbers) == whole.numbers.tolist()


# Files


def test_states_on_file_are_not_computed_again(training, tmp_path, monkeypatch):
    some = training("own", "paper:1")
    first = computed(some, file=tmp_path / "states.bin")
    monkeypatch.setattr(module, "_forward", lambda *_, **__: pytest.fail("computed again"))
    again = computed(some, file=tmp_path / "states.bin")
    np.testing.assert_array_equal(again.states, first.states)
    np.testing.assert_array_equal(again.numbers, first.numbers)


def test_a_file_of_another_size_is_refused(training, tmp_path):
    some, file = training("own", "paper:1"), tmp_path / "states.bin"
    file.write_bytes(bytes(1000))
    shape = some.order.rows, ROW_LENGTH, 32
    size = 4 * math.prod(shape)
    message = f"{file} must have {size} bytes for {shape} float32, got 1000"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        computed(some, file=file)
    assert file.read_bytes() == bytes(1000)


class OnFullDisk(np.ndarray):
    """States of which only the first are written."""

    written = 0

    def tofile(self, fid, *_) -> None:
        if OnFullDisk.written:
            raise OSError(errno.ENOSPC, "No space left on device")
        OnFullDisk.written += fid.write(self.tobytes())


def test_a_write_that_fails_leaves_no_file(training, tmp_path, monkeypatch):
    some, file = training("own", "paper:1"), tmp_path / "states.bin"
    own_part = module.own_part
    with monkeypatch.context() as patched:
        patched.setattr(module, "own_part", lambda *a, **k: own_part(*a, **k).view(OnFullDisk))
        message = f"cannot write {file}: [Errno 28] No space left on device"
        with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
            computed(some, file=file)
    assert OnFullDisk.written > 0
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(computed(some, file=file).states, computed(some).states)


def test_a_folder_that_is_absent_is_named(training, tmp_path):
    file = tmp_path / "absent" / "states.bin"
    with pytest.raises(OSError, match=f"^{re.escape(f'cannot write {file}: ')}"):
        computed(training("own", "paper:1"), file=file)
