"""Refuse what a user got wrong: all offenders at once, the first of them by name."""

from collections.abc import Sequence

SHOWN = 10
"""How many offenders an error names; of the others it gives the number."""


def refuse(what: str, problems: Sequence[str], *, inline: bool = False) -> None:
    """Stop if there are problems.

    Args:
        what: Says what is allowed, of what, and ends in "got".
        problems: One for each offender; none: all is well.
        inline: Whether they follow on the same line; else each has a line of its own.

    Raises:
        ValueError: Naming the first of them.
    """
    if problems:
        separator = ", " if inline else "\n  "
        raise ValueError(f"{what}{separator.lstrip(',')}{listed(problems, separator=separator)}")


def listed(names: Sequence[str], *, separator: str = ", ") -> str:
    """The first names, joined, and how many more there are."""
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return separator.join([*names[:SHOWN], *more])
