"""What was said, a JSON object a line: a file that grows in blocks, and goes on after a kill."""

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from ilo_jax.processes import by_first


class Answers:
    """A file of lines in blocks; only the first process reads and writes it."""

    def __init__(self, file: Path, *, lines: int, block: int):
        """Open it, or make it; what is behind its last whole block is dropped.

        Args:
            file: Where it is.
            lines: How many it is to have in the end.
            block: Lines of a block; the last may have fewer.

        Raises:
            OSError: If it cannot be read or written.
            RuntimeError: If the first process could not.
        """
        whole = by_first(lambda: b"%d" % _whole(file, lines, block), what=f"opening {file}")
        self.file, self.whole = file, int(whole)

    whole: int
    """Lines that were there, from the first on."""

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add a block.

        Raises:
            OSError: If it cannot be written.
        """
        if jax.process_index():
            return
        text = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
        with self.file.open("ab") as stream:
            stream.write(text.encode())


def _whole(file: Path, lines: int, block: int) -> int:
    """Cut a file down to its whole blocks, and return how many lines they have."""
    file.touch()
    with file.open("rb") as stream:
        ends = [0, *itertools.accumulate(len(line) for line in stream if line.endswith(b"\n"))]
    there = len(ends) - 1
    whole = lines if there >= lines else there - there % block
    os.truncate(file, ends[whole])
    return whole
