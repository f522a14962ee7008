"""Text in columns, as the benchmarks print their tables."""

from collections.abc import Iterable, Sequence


def columns(lines: Iterable[Sequence[str]]) -> str:
    """Return lines of cells with every column as wide as its widest cell, aligned at the right."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
