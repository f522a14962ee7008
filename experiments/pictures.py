"""How results are drawn: one style, PNG files, written whole or not at all."""

import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilo_jax.files import write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
"""Pixels an inch."""
MOST_PIXELS = 2**16 - 1
"""Along a side: what matplotlib can draw; larger pictures get fewer pixels an inch."""
SMALL, LARGE = 8, 10
"""Sizes of text in points: of ticks and legends, and of titles."""
MEASURED: dict[str, Any] = {"marker": "o", "markersize": 3}
"""What was measured."""
CHANCE: dict[str, Any] = {"linestyle": "--", "linewidth": 1}
"""What chance, or nothing but products, would give."""
AS_IT_IS: Any = {"text.parse_math": False, "text.usetex": False}
"""Names are text: $ begins no formula in them."""


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


def logarithmic(axes: "Axes") -> None:
    """Number the ticks of logarithmic axes without formulas, which are text here."""
    from matplotlib.ticker import LogFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def write(file: Path, draw: Callable[[], "Figure"]) -> None:
    """Write a figure as a PNG file, whole or not at all.

    Args:
        file: Where it is to be.
        draw: Gives the figure; all text in it is shown as it is.

    Raises:
        OSError: If it cannot be written; what stood there before still stands.
        ValueError: If it cannot be drawn.
    """
    import matplotlib as mpl

    with mpl.rc_context(AS_IT_IS), warnings.catch_warnings():
        # Characters that the font has not are seen as boxes.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        try:
            figure = draw()
            dpi = min(DPI, MOST_PIXELS / max(figure.get_size_inches()))
            write_beside(file, lambda beside: figure.savefig(beside, format="png", dpi=dpi))
        except (RuntimeError, TypeError, ValueError) as error:  # the last two of odd characters
            said = textwrap.shorten(str(error), 200)
            raise ValueError(f"cannot draw {file}: {said}; all else is written") from error
