"""Files and folders that several runs share: written whole or not at all, claimed, locked."""

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import tensorstore as ts

log = logging.getLogger(__name__)

Key = Mapping[str, Any]
"""All that determines what is in a folder, as plain JSON."""

LEASE_SECONDS = 30
"""How long a run on another machine may be silent before its lock is taken from it."""


def user_cache() -> Path:
    """Where the user keeps caches: `$XDG_CACHE_HOME` if that is absolute, else `~/.cache`.

    Raises:
        OSError: If neither is known.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError("there is no home folder for caches; set XDG_CACHE_HOME") from error


def own_folder(folder: Path) -> Path:
    """Make sure that a folder is there, and that no other user can write into it.

    What is read from a cache is trusted: compiled programs are run.

    Raises:
        OSError: If it cannot be made, or belongs to another user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid not in (0, os.getuid()):
        raise PermissionError(
            f"{folder} belongs to another user, who could change what is in it; set "
            "XDG_CACHE_HOME to keep caches elsewhere"
        )
    if found.st_mode & 0o022:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~0o022)
    return folder


def write_text(file: Path, text: str) -> None:
    r"""Write a text file, in UTF-8, so that it is seen whole or not at all.

    Of the name of a file, a byte that is no UTF-8 is written as JSON has it, such as \udcff.

    Raises:
        OSError: If it cannot be written; what stood there before still stands.
    """
    data = text.encode(errors="backslashreplace")
    write_beside(file, lambda beside: beside.write_bytes(data))


def write_beside(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that it is seen whole or not at all.

    Args:
        file: Where it is to be; a link there is replaced, not followed.
        write: Called with the path of `whole`, to write there.

    Raises:
        OSError: If it cannot be written; what stood there before still stands.
    """
    with whole(file) as beside:
        write(beside)


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes the file if all goes well until the end.

    It has the name of the file, in a new folder beside it that only this user enters.

    Raises:
        OSError: If it cannot be written; what stood there before still stands.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            beside = Path(folder) / file.name
            yield beside
            beside.replace(file)
    except OSError as error:
        raise OSError(f"cannot write {file}: {error}") from error


def key_digest(key: Key) -> str:
    """A short name for a key: equal keys, equal names."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def kvstore(url: str | Path) -> ts.KvStore:
    """Open a folder as tensorstore sees it.

    Args:
        url: A path, of which the folder is made if it is not there; or a URL that tensorstore
            knows, such as gs://bucket/folder.

    Raises:
        OSError: If the folder cannot be made.
        ValueError: If tensorstore does not know the URL.
    """
    if "://" in str(url):
        try:
            return ts.KvStore.open(f"{url}/").result()
        except ValueError as error:
            where = "a folder, or a URL that tensorstore knows, such as gs://bucket/folder"
            raise ValueError(f"{url} must be {where}: {error}") from error
    folder = Path(url)
    folder.mkdir(parents=True, exist_ok=True)
    return ts.KvStore.open({"driver": "file", "path": f"{folder.resolve()}/"}).result()


def amended(folder: ts.KvStore, file: str, change: Callable[[Any], Any]) -> Any:
    """Change a JSON file that others may change at the same time, and lose nothing of theirs.

    Args:
        folder: Holds the file.
        file: Its name.
        change: Gives what is to be there, from what is: None if the file is not there. It is
            called again when another was faster; nothing is written if it gives what it got.

    Returns:
        What is there now.

    Raises:
        ValueError: If what is there is not JSON, or what is to be there cannot be, such as NaN.
        OSError: If it cannot be read or written.
    """
    while True:
        with _as_os_error(folder):
            found = folder.read(file).result()
        there = None if found.state == "missing" else _parsed(found.value, folder, file)
        wanted = change(there)
        if wanted is there:
            return there
        text = json.dumps(wanted, allow_nan=False)
        with _as_os_error(folder):
            # Written only if the file still is as it was read; else the generation is empty.
            stamp = folder.write(file, text, if_equal=found.stamp.generation).result()
        if stamp.generation:
            return wanted


@contextmanager
def _as_os_error(folder: ts.KvStore) -> Iterator[None]:
    """Say where a file could not be read or written: tensorstore calls it all a ValueError."""
    try:
        yield
    except ValueError as error:
        raise OSError(f"cannot write into {_place(folder)}: {error}") from error


class DamagedError(ValueError):
    """A file that others left is not what it should be."""

    def __init__(self, folder: ts.KvStore, file: str, error: Exception):
        place = _place(folder)
        super().__init__(f"{place}{file} is damaged ({error!r}); delete {place}")


def _place(folder: ts.KvStore) -> str:
    """What messages call a folder."""
    return folder.path if folder.url.startswith("file://") else folder.url


def _parsed(data: bytes, folder: ts.KvStore, file: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise DamagedError(folder, file, error) from error


def claim(
    folder: ts.KvStore,
    file: str,
    record: Mapping[str, Any],
    *,
    what: str,
    advice: str,
    key: Callable[[Any], Key] = dict,
) -> None:
    """Leave a record in a folder that has none yet, or refuse the folder of another key.

    Any number of runs and processes may claim a folder at once: the first one's record stays.

    Args:
        folder: What is claimed.
        file: Its JSON file.
        record: The key of what is in the folder, or more than that, as JSON.
        what: Begins the message, such as "STORE was written for another key".
        advice: Ends it: what to do.
        key: Takes the key out of a record.

    Raises:
        ValueError: If the folder is of another key, naming all fields that differ, or its file
            is damaged.
        OSError: If it cannot be read or written.
    """
    there = amended(folder, file, lambda there: record if there is None else there)
    try:
        first, ours = key(there), key(json.loads(json.dumps(record)))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(folder, file, error) from error
    absent = object()
    names = sorted({*first, *ours})
    differing = [name for name in names if first.get(name, absent) != ours.get(name, absent)]
    if differing:
        shown = (f"{name} was {first.get(name)!r}, is {ours.get(name)!r}" for name in differing)
        raise ValueError(f"{what}: {', '.join(differing)} differ ({'; '.join(shown)}); {advice}")


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep other runs from writing into a folder meanwhile.

    The lock of a run that was killed is taken over: at once on the same machine, on another
    when it has not been renewed for `LEASE_SECONDS`. What is no folder, gs://... for example, is
    not locked.

    Raises:
        OSError: If another run still holds the lock after that time.
    """
    if "://" in url:
        yield
        return
    file = Path(url) / "lock"
    lease = filelock.SoftFileLease(file, lease_duration=LEASE_SECONDS, thread_local=False)
    try:
        with suppress(filelock.Timeout):
            lease.acquire(timeout=0)
        if not lease.is_locked:
            log.warning("%s is held: waiting whether it is renewed", file)
            lease.acquire(timeout=1.2 * LEASE_SECONDS)
    except filelock.Timeout as error:
        raise OSError(f"another run is writing into {url}: {file} is renewed") from error
    try:
        yield
    finally:
        lease.release()
