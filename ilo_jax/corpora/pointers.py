"""Files that a clone without git-lfs leaves in place of the real ones."""

import re
from pathlib import Path

POINTER = re.compile(rb"version https://[\w.-]+/spec/v1\n(?:.*\n)*?oid sha256:[0-9a-f]+\n")
"""How a pointer begins: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""

LONGEST = 1024
"""Bytes that a pointer has at most, by that page."""


def is_pointer(data: bytes) -> bool:
    """Tell a pointer by the bytes of a file, or the first `LONGEST` of them."""
    return bool(POINTER.match(data[:LONGEST].replace(b"\r\n", b"\n")))


def refuse_pointer(file: Path) -> None:
    """Stop if a file is a git-lfs pointer, a few lines that say which file belongs there.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is one, naming it and what fetches the real one.
    """
    with file.open("rb") as stream:
        begins = stream.read(LONGEST)
    if is_pointer(begins):
        raise ValueError(
            f"{file} is a git-lfs pointer, not the file itself: run git lfs pull in {file.parent}"
        )
