"""Pictures are whole or not there, and names in them are text."""

import re

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from experiments import pictures


def test_a_figure_becomes_a_png_of_its_size(tmp_path):
    figure = pictures.figure(4, 2)
    axes = figure.subplots()
    axes.plot([0, 1], **pictures.MEASURED, label="a line")
    pictures.label(axes, title="a title")
    pictures.write(tmp_path / "a.png", lambda: figure)
    written = (tmp_path / "a.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    sizes = [int.from_bytes(written[at : at + 4]) for at in (16, 20)]
    assert sizes == [4 * pictures.DPI, 2 * pictures.DPI]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert axes.get_title() == "a title"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a line"]


def test_axes_may_have_no_legend():
    axes = pictures.figure(4, 2).subplots()
    axes.plot([0, 1], label="a line")
    pictures.label(axes, legend=False)
    assert axes.get_legend() is None


def test_what_cannot_be_drawn_leaves_what_stood_there(tmp_path, monkeypatch):
    file, figure = tmp_path / "a.png", pictures.figure(4, 2)
    file.write_bytes(b"earlier")

    def refuse(beside, **_):
        beside.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", refuse)
    with pytest.raises(OSError, match=r"^cannot write .*a.png: disk full"):
        pictures.write(file, lambda: figure)
    assert file.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


NAMES = ["$x_{", "50%", r"a\b", "$a$", "{b}_c", "two\nlines", "\u4e2d"]


def named(names: list[str]) -> Figure:
    """A figure with names wherever jobs have some, on logarithmic axes."""
    figure = pictures.figure(4, 3)
    axes = figure.subplots()
    for name in names:
        axes.loglog([1, 1000], [0.01, 1], label=name)
    axes.text(2, 0.1, names[0])
    pictures.logarithmic(axes)
    pictures.label(axes, title=" ".join(names))
    return figure


def test_names_are_text(tmp_path):
    """Under settings that would read formulas in them, too; as a picture without signs would."""
    drawn = []
    with mpl.rc_context({"text.usetex": True}):
        pictures.write(tmp_path / "a.png", lambda: drawn.append(named(NAMES)) or drawn[0])
        assert mpl.rcParams["text.usetex"] is True
    axes = drawn[0].axes[0]
    ticks = [text.get_text() for text in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert {"1", "10", "100", "1000"} <= {*ticks}
    assert not any("$" in text for text in ticks)
    for text in (axes.title, *axes.get_legend().get_texts(), *axes.texts):
        assert (text.get_parse_math(), text.get_usetex()) == (False, False)


def test_a_picture_that_cannot_be_drawn_is_one_line(tmp_path):
    def fail() -> Figure:
        raise RuntimeError("no font\nanywhere")

    said = f"cannot draw {tmp_path}/a.png: no font anywhere; all else is written"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        pictures.write(tmp_path / "a.png", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_very_many_languages_is_drawn(tmp_path):
    pictures.write(tmp_path / "a.png", lambda: pictures.figure(1, 600))
    assert int.from_bytes((tmp_path / "a.png").read_bytes()[20:24]) == pictures.MOST_PIXELS
