"""Another run waits, is refused, or takes over."""

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pytest

from ilo_jax.activations import locking
from ilo_jax.activations.locking import locked


def test_a_store_at_a_url_is_not_locked(tmp_path: Path):
    url = f"file://{tmp_path}"
    with locked(url), locked(url):
        assert not list(tmp_path.rglob("lock"))


HOLDER = """
import sys
from ilo_jax.activations import locking
locking.LEASE_SECONDS = 2
with locking.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(locking, "LEASE_SECONDS", 2)
    return str(tmp_path)


@contextmanager
def another_run(root: Path) -> Iterator[subprocess.Popen]:
    """Hold the lock of `own` in another process, until that is told to end or killed."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == b"held\n"
            yield run
        finally:
            run.kill()


def test_a_second_run_is_refused_and_a_killed_ones_lock_is_taken_at_once(
    own: str, tmp_path: Path, caplog
):
    with another_run(tmp_path) as run:
        message = r"^another run is writing into .*lock is renewed$"
        with pytest.raises(OSError, match=message), locked(own):
            pass
        assert "lock is held: waiting whether it is renewed" in caplog.text
        assert (Path(own) / "lock").exists()
        caplog.clear()
        run.kill()
        run.wait()
        with locked(own):
            assert caplog.text == ""


def test_the_lock_of_a_silent_run_is_taken_after_a_while(own: str, tmp_path: Path, caplog):
    with another_run(tmp_path) as run:
        run.send_signal(signal.SIGSTOP)
        with locked(own):
            assert "waiting whether it is renewed" in caplog.text


def test_the_lock_is_released_at_the_end(own: str, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    kept: list[filelock.SoftFileLease] = []  # or collecting them would release them

    class Kept(filelock.SoftFileLease):
        def __init__(self, *args: Any, **settings: Any):
            super().__init__(*args, **settings)
            kept.append(self)

    monkeypatch.setattr(filelock, "SoftFileLease", Kept)
    for _ in range(2):
        with locked(own):
            assert (Path(own) / "lock").is_file()
        assert not (Path(own) / "lock").exists()
    with pytest.raises(KeyError), locked(own):
        raise KeyError
    assert not (Path(own) / "lock").exists()
    assert len(kept) == 3
    assert caplog.text == ""
