"""Pictures are whole or not there."""

import pytest

from experiments import pictures


def test_a_figure_becomes_a_png_of_its_size(tmp_path):
    figure = pictures.figure(4, 2)
    axes = figure.subplots()
    axes.plot([0, 1], **pictures.MEASURED, label="a line")
    pictures.label(axes, title="a title")
    pictures.write(tmp_path / "a.png", figure)
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
        pictures.write(file, figure)
    assert file.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
