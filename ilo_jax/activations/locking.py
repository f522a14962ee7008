"""One run at a time writes into a store."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

log = logging.getLogger(__name__)

LEASE_SECONDS = 30
"""How long a run on another machine may be silent before its lock is taken from it."""


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep other runs from writing into the store of a folder meanwhile.

    The lock of a run that was killed is taken over: at once on the same machine, on another
    when it has not been renewed for `LEASE_SECONDS`. What is no folder, gs://... for example, is
    not locked.

    Raises:
        OSError: if another run still holds the lock after that time.
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
