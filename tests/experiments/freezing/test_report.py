"""What a comparison of trainings leaves, against the numbers that went in."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments import pictures, tables
from experiments.freezing import report as freezing_report
from experiments.freezing.report import Judged, draw, of_arm, table, write
from ilo_jax.evaluation.held_out import Judgement, TextScores
from ilo_jax.metrics import ReferencedScores

LANGUAGES = ["swe_Latn", "xyz_Latn", "dan_Latn", "deu_Latn"]
ORDER = ["dan_Latn", "deu_Latn", "swe_Latn", "xyz_Latn"]
TRAINED = "deu_Latn"
STATES = 3
# So many that no share of uncertain points is worth a word.
SENTENCES = 2000


def found(seed: int) -> Judgement:
    rng = np.random.default_rng(seed)
    bits = rng.uniform(0.5, 3, 4)
    bridge, reach, ilo, ceiling, gaussian = rng.uniform(0, 1, (5, STATES, 4))
    counts = rng.integers(0, 9, (3, STATES, 4))
    scores = ReferencedScores(bridge, reach, ilo, ceiling, gaussian, *counts)
    retrieved = rng.uniform(0, 1, (STATES, 4, 4))
    return Judgement(TextScores(bits, 2 * bits, np.arange(100, 104)), scores, retrieved)


@pytest.fixture
def judged() -> list[Judged]:
    arms = [("base", 0), ("full", 5), ("frozen", 5), ("full", 6), ("frozen", 6)]
    return [Judged(arm, seed, found(i)) for i, (arm, seed) in enumerate(arms)]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


# Numbers


def test_an_arm_is_all_its_seeds(judged):
    np.testing.assert_array_equal(
        of_arm(judged, "full", "bits_per_byte"),
        [judged[1].found.texts.bits_per_byte, judged[3].found.texts.bits_per_byte],
    )
    ilo = of_arm(judged, "frozen", "ilo")
    np.testing.assert_array_equal(ilo, [judged[2].found.scores.ilo, judged[4].found.scores.ilo])


def test_csvs_are_tidy(tmp_path, judged):
    write(tmp_path, judged, LANGUAGES, trained=TRAINED)
    draw(tmp_path, judged, LANGUAGES, trained=TRAINED, title="a model")
    assert {file.name for file in tmp_path.iterdir()} == {
        "bits.csv",
        "bits.png",
        "ilo.csv",
        "ilo.png",
    }
    bits = rows(tmp_path / "bits.csv")
    assert list(bits[0]) == [
        *("arm", "seed", "language", "trained", "bits_per_byte", "change", "loss", "tokens")
    ]
    expected = [(one, lang) for one in judged for lang in range(4)]
    for row, (one, lang) in zip(bits, expected, strict=True):
        texts, before = one.found.texts, judged[0].found.texts
        assert (row["arm"], row["seed"]) == (one.arm, str(one.seed))
        assert row["language"] == LANGUAGES[lang]
        assert row["trained"] == str(int(LANGUAGES[lang] == TRAINED))
        bit = texts.bits_per_byte[lang]
        assert float(row["bits_per_byte"]) == pytest.approx(bit, rel=1e-5)
        change = bit - before.bits_per_byte[lang]
        assert float(row["change"]) == pytest.approx(change, rel=1e-5)
        assert float(row["loss"]) == pytest.approx(texts.loss[lang], rel=1e-5)
        assert row["tokens"] == str(100 + lang)
    found = rows(tmp_path / "ilo.csv")
    assert list(found[0]) == ["arm", "seed", "state", "language", *tables.INTERLINGUA[2:]]
    places = [(one, *at) for one in judged for at in np.ndindex(STATES, 4)]
    for row, (one, state, lang) in zip(found, places, strict=True):
        assert (row["arm"], row["seed"], row["state"]) == (one.arm, str(one.seed), str(state))
        assert row["language"] == LANGUAGES[lang]
        for name in tables.INTERLINGUA[2:]:
            value = getattr(one.found.scores, name)[state, lang]
            assert float(row[name]) == pytest.approx(value, rel=1e-5)


def test_table_marks_the_trained_language_and_leaves_it_out_of_the_others(judged):
    lines = table(judged, LANGUAGES, trained=TRAINED, sentences=SENTENCES).splitlines()
    assert len({len(line) for line in lines}) == 1
    stripped = [line.strip() for line in lines]
    for text in ("as it is", "full fine-tuning", "early layers frozen"):
        assert text in stripped[0]
    codes = [line.split()[0] for line in stripped[1:5]]
    assert codes == ORDER
    assert ["(trained)" in line for line in stripped[1:5]] == [c == TRAINED for c in ORDER]
    bits = {arm: of_arm(judged, arm, "bits_per_byte").mean(axis=0) for arm in freezing_report.ARMS}
    for line, code in zip(stripped[1:5], ORDER, strict=True):
        values = [f"{mean[LANGUAGES.index(code)]:.3f}" for mean in bits.values()]
        assert line.split()[-3:] == values
    others = [f"{mean[[0, 1, 2]].mean():.3f}" for mean in bits.values()]
    assert stripped[5].split() == ["mean", "of", "the", "others", *others]


def test_table_has_ilo_and_its_null_of_every_state(judged):
    lines = [
        line.strip()
        for line in table(judged, LANGUAGES, trained=TRAINED, sentences=SENTENCES).splitlines()
    ]
    assert lines[6:8] == ["", "ILO, mean of languages"]
    means = {}
    for name in ("ilo", "gaussian"):
        arms = [of_arm(judged, arm, name) for arm in freezing_report.ARMS]
        means[name] = np.array([arm.mean(axis=(0, 2)) for arm in arms])
    for state, line in enumerate(lines[8:-1]):
        pairs = zip(means["ilo"][:, state], means["gaussian"][:, state], strict=True)
        cells = "  ".join(f"{ilo:.3f} (null {null:.3f})" for ilo, null in pairs)
        assert " ".join(line.split()) == " ".join(f"state {state} {cells}".split())
    assert len(lines[8:-1]) == STATES
    whole = [f"{ilo.mean():.3f}" for ilo in means["ilo"]]
    assert [cell for cell in lines[-1].split()[3:] if cell in whole] == whole


def test_table_has_the_share_of_uncertain_points_where_that_decides(judged):
    text = table(judged, LANGUAGES, trained=TRAINED, sentences=50)
    for arm in freezing_report.ARMS:
        shares = of_arm(judged, arm, "uncertain").mean(axis=(0, 2)) / 50
        assert (shares > 0.01).all()
        for share in shares:
            assert f", {share:.0%} uncertain)" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_table_without_a_trained_language_is_of_all(judged):
    lines = [
        line.strip()
        for line in table(judged, LANGUAGES, trained="", sentences=SENTENCES).splitlines()
    ]
    assert "(trained)" not in "".join(lines)
    bits = of_arm(judged, "base", "bits_per_byte").mean()
    assert lines[5].startswith("mean")
    assert f"{bits:.3f}" in lines[5]


def test_table_of_some_arms_has_their_columns(judged):
    some = [one for one in judged if one.arm != "full"]
    first = table(some, LANGUAGES, trained=TRAINED, sentences=SENTENCES).splitlines()[0]
    assert "full fine-tuning" not in first
    assert "early layers frozen" in first


# Pictures


@pytest.fixture
def drawn(monkeypatch) -> dict[str, Figure]:
    """The figures that are saved, by the file's name; they are saved all the same."""
    figures, save = {}, pictures.write

    def remember(file: Path, draw: Callable[[], Figure]) -> None:
        figures[file.name] = draw()
        save(file, lambda: figures[file.name])

    monkeypatch.setattr(pictures, "write", remember)
    return figures


def texts_of(figure: Figure) -> list[str]:
    shown = (text for text in figure.findobj(Text) if text.get_visible())
    return [text.get_text() for text in shown if isinstance(text, Text) and text.get_text()]


def test_pictures_say_what_they_show(tmp_path, judged, drawn):
    draw(tmp_path, judged, LANGUAGES, trained=TRAINED, title="a model, 5 steps")
    for name in ("ilo.png", "bits.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert "a model, 5 steps" in texts_of(drawn[name])
    ilo, bits = texts_of(drawn["ilo.png"]), texts_of(drawn["bits.png"])
    for text in freezing_report.ARMS.values():
        assert f"ILO, {text}" in ilo
    assert ilo.count("Gaussian null of it") == 3
    assert "hidden state (0: embedding)" in ilo
    assert "ILO, mean of languages" in ilo
    assert [text for text in bits if text.split()[0] in ORDER] == [
        f"{code} (trained)" if code == TRAINED else code for code in ORDER
    ]
    assert "change in bits per byte (left of 0: better)" in bits
    assert {"full fine-tuning", "early layers frozen"} <= set(bits)


def test_pictures_show_the_numbers(tmp_path, judged, drawn):
    draw(tmp_path, judged, LANGUAGES, trained=TRAINED, title="a model")
    lines = {line.get_label(): line.get_ydata() for line in drawn["ilo.png"].axes[0].get_lines()}
    for arm, text in freezing_report.ARMS.items():
        mean = of_arm(judged, arm, "ilo").mean(axis=(0, 2))
        np.testing.assert_allclose(lines[f"ILO, {text}"], mean)
    axes = drawn["bits.png"].axes[0]
    base = of_arm(judged, "base", "bits_per_byte")[0]
    at = [LANGUAGES.index(code) for code in ORDER]
    for bars, arm in zip(axes.containers, ("full", "frozen"), strict=True):
        change = of_arm(judged, arm, "bits_per_byte").mean(axis=0) - base
        widths = [bar.get_width() for bar in bars]
        np.testing.assert_allclose(widths, change[at])
        # From the top, as the names.
        heights = [bar.get_y() for bar in bars]
        assert heights == sorted(heights, reverse=True)
