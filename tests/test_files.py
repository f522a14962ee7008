"""Whole or not at all, of one key, by one run at a time."""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import filelock
import jax
import pytest

from ilo_jax import files
from ilo_jax.files import (
    amended,
    claim,
    key_digest,
    kvstore,
    locked,
    own_folder,
    user_cache,
    write_beside,
    write_text,
)

# Files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    file = tmp_path / "scores.csv"
    write_beside(file, lambda beside: beside.write_text("old"))

    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match=r"cannot write .*scores.csv: disk full"):
        write_beside(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_written_where_nobody_else_can_be_and_never_twice_the_same(tmp_path: Path):
    file, places = tmp_path / "scores.csv", []

    def write(beside: Path) -> None:
        places.append(beside)
        assert beside.name == file.name
        assert beside.parent.parent == tmp_path
        assert beside.parent.stat().st_mode & 0o777 == 0o700
        assert list(beside.parent.iterdir()) == []
        beside.write_text("new")

    for _ in range(2):
        write_beside(file, write)
    assert len({*places}) == 2
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path):
    file, victim = tmp_path / "scores.csv", tmp_path / "victim"
    victim.write_text("theirs")
    file.symlink_to(victim)
    write_text(file, "ours: \u00fc\n")
    assert victim.read_text() == "theirs"
    assert not file.is_symlink()
    assert file.read_bytes() == "ours: \u00fc\n".encode()


def test_a_name_that_is_no_utf8_is_written_as_json_has_it(tmp_path: Path):
    name = os.fsdecode(b"a\xff")
    write_text(tmp_path / "a.json", json.dumps(name, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == name


def test_a_file_may_be_read_by_whom_the_user_lets(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.write_text("")
    write_text(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == plain.stat().st_mode


def test_the_cache_is_where_the_user_keeps_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), monkeypatch.undo):
        unset()
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/home/somebody")
        assert user_cache() == Path("/home/somebody/.cache")


def test_where_no_cache_is_known_what_to_set_is_said(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError))
    with pytest.raises(OSError, match=r"^there is no home folder for caches; set XDG_CACHE_HOME$"):
        user_cache()


def test_nobody_else_writes_into_a_folder_of_ones_own(tmp_path: Path, monkeypatch):
    folder = tmp_path / "a" / "b"
    assert own_folder(folder) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    own_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o755
    of_another = [*folder.stat()[:4], os.getuid() + 1, *folder.stat()[5:10]]
    monkeypatch.setattr(Path, "stat", lambda path, **how: os.stat_result(of_another))
    said = f"^{folder} belongs to another user, who could change what is in it; set XDG_CACHE_HOME"
    with pytest.raises(PermissionError, match=said):
        own_folder(folder)


def test_what_tests_compile_is_where_nobody_else_writes():
    kept = Path(jax.config.values["jax_compilation_cache_dir"])
    assert kept.parent == own_folder(user_cache() / "ilo_jax")


# Keys

KEY = {"model": "a", "languages": ["x", "y"], "seed": None}


def test_equal_keys_have_equal_names():
    assert key_digest(KEY) == key_digest(dict(reversed(KEY.items())))
    assert key_digest(KEY) != key_digest(KEY | {"seed": 0})
    assert key_digest(KEY) != key_digest({"model": "a", "languages": ["x", "y"]})


def claimed(folder: Path | str, key: dict[str, Any]) -> None:
    claim(kvstore(folder), "key.json", key, what="the folder is of another", advice="leave it")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_belongs_to_whom_comes_first(tmp_path: Path, scheme: str):
    folder = tmp_path / "a" / "b"
    claimed(f"{scheme}{folder}", KEY)
    claimed(f"{scheme}{folder}", KEY | {"languages": ("x", "y")})
    assert json.loads((folder / "key.json").read_text()) == KEY
    assert [file.name for file in folder.iterdir()] == ["key.json"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (KEY | {"model": "b"}, "model differ (model was 'a', is 'b')"),
        (
            {"model": "a", "languages": ["y", "x"], "steps": 3},
            "languages, seed, steps differ (languages was ['x', 'y'], is ['y', 'x']; "
            "seed was None, is None; steps was None, is 3)",
        ),
    ],
)
def test_a_folder_of_another_key_is_refused_by_all_fields_that_differ(
    tmp_path: Path, other: dict[str, Any], message: str
):
    claimed(tmp_path, KEY)
    whole = re.escape(f"the folder is of another: {message}; leave it")
    with pytest.raises(ValueError, match=f"^{whole}$"):
        claimed(tmp_path, other)
    assert json.loads((tmp_path / "key.json").read_text()) == KEY


@pytest.mark.parametrize("text", ["", "{", "5", "\u00fc"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str):
    (tmp_path / "key.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/key.json is damaged .*; delete {tmp_path}/$"
    ):
        claimed(tmp_path, KEY)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "key.json.__lock").mkdir()
    with pytest.raises(OSError, match=rf"^cannot write into {tmp_path}/: "):
        claimed(tmp_path, KEY)


def test_what_json_has_not_is_no_failure_of_the_folder(tmp_path: Path):
    with pytest.raises(ValueError, match=r"Out of range float values are not JSON compliant"):
        amended(kvstore(tmp_path), "record.json", lambda there: {"rate": math.inf})
    assert not (tmp_path / "record.json").exists()


def test_what_several_change_at_once_holds_what_all_of_them_wrote(tmp_path: Path):
    def append(number: int) -> None:
        folder = kvstore(tmp_path)
        amended(folder, "list.json", lambda there: [*(there or []), number])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(40)))
    assert sorted(json.loads((tmp_path / "list.json").read_text())) == [*range(40)]


# Locks


def test_a_store_at_a_url_is_not_locked(tmp_path: Path):
    url = f"file://{tmp_path}"
    with locked(url), locked(url):
        assert not list(tmp_path.rglob("lock"))


HOLDER = """
import sys
from ilo_jax import files
files.LEASE_SECONDS = 2
with files.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(files, "LEASE_SECONDS", 2)
    return str(tmp_path)


@contextmanager
def another_run(root: Path) -> Iterator[subprocess.Popen]:
    """Hold the lock of `own` in another process, until that is told to end or killed."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
