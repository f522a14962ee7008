"""How results are drawn: one style, PNG files, written whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilo_jax.files import write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
"""Pixels an inch."""
SMALL, LARGE = 8, 10
"""Sizes of text in points: of ticks and legends, and of titles."""
MEASURED: dict[str, Any] = {"marker": "o", "markersize": 3}
"""What was measured."""
CHANCE: dict[str, Any] = {"linestyle": "--", "linewidth": 1}
"""What chance, or nothing but products, would give."""


def figure(width: float, height: float) -> "Figure":
    """An empty figure; sizes are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def label(axes: "Axes", *, title: str = "", legend: bool = True) -> None:
    """Give axes a title, and a legend of the lines that have a name."""
    axes.set_title(title, fontsize=LARGE)
    axes.tick_params(labelsize=SMALL)
    if legend:
        axes.legend(fontsize=SMALL, frameon=False, loc="best")


def write(file: Path, figure: "Figure") -> None:
    """Write a figure as a PNG file, whole or not at all.

    Raises:
        OSError: If it cannot be written; what stood there before still stands.
    """
    write_beside(file, lambda beside: figure.savefig(beside, format="png", dpi=DPI))
