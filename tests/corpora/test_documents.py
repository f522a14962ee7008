"""What is learnt from and what is held out: by the text of each document alone."""

import re
from pathlib import Path

import numpy as np
import pytest

from ilo_jax.corpora import documents
from ilo_jax.corpora.documents import Documents, place, read_documents, sample_documents
from tests.corpora.material import refusal

WORDS = {"a": [f"word {i}" for i in range(400)], "b": [f"Wort {i}" for i in range(300)]}


def write(folder: Path, text: dict[str, list[str]] = WORDS) -> Path:
    folder.mkdir(exist_ok=True)
    for language, found in text.items():
        (folder / f"{language}.txt").write_text("\n\n".join(found))
    return folder


def sides(found: Documents) -> dict[str, tuple[list[str], list[str]]]:
    return {name: ([*found.learnt(name)], [*found.held_out(name)]) for name in found.languages}


def test_every_document_is_learnt_or_held_out(tmp_path):
    found = read_documents(write(tmp_path), held_out=0.05)
    for language, (learnt, held_out) in sides(found).items():
        assert sorted(learnt + held_out) == sorted(WORDS[language])
        assert learnt == [text for text in WORDS[language] if text in set(learnt)]
        assert len(held_out) == pytest.approx(0.05 * len(WORDS[language]), abs=12)
        census = found.census[language]
        assert (census.learnt, census.held_out) == (len(learnt), len(held_out))
        assert census.learnt_bytes == len("".join(learnt).encode())
        assert census.held_out_bytes == len("".join(held_out).encode())


def test_equal_documents_are_on_the_same_side_whatever_is_beside_them(tmp_path):
    before = sides(read_documents(write(tmp_path / "one"), held_out=0.05))
    other = {"c": WORDS["b"][::-1] * 2 + ["more"], "a": WORDS["a"][100:]}
    after = sides(read_documents(write(tmp_path / "other", other), held_out=0.05))
    assert set(after["c"][1]) - {"more"} == set(before["b"][1])
    assert after["a"][1] == [text for text in before["a"][1] if text in other["a"]]
    more = sides(read_documents(tmp_path / "one", held_out=0.1))
    assert set(before["a"][1]) < set(more["a"][1])


def test_places_are_even_and_independent_of_each_other():
    texts = [f"text {i}" for i in range(4000)]
    found, others = (np.array([place(t, of=of) for t in texts]) for of in ("held out", "order"))
    assert np.abs(np.sort(found) - np.linspace(0, 1, 4000)).max() < 0.03
    assert abs(np.corrcoef(found, others)[0, 1]) < 0.06
    assert place("text 0") == found[0]


def test_the_census_knows_text_by_content_and_order(tmp_path):
    def hash_of(texts: list[str]) -> str:
        return read_documents(write(tmp_path, {"a": texts}), held_out=0.0).census["a"].hash

    hashes = [hash_of(texts) for texts in (["x", "y"], ["y", "x"], ["x\ny"], ["xy"], ["x", "y"])]
    assert len(set(hashes)) == 4
    assert hashes[0] == hashes[-1]


def test_languages_are_those_asked_for_in_their_order(tmp_path):
    write(tmp_path)
    assert read_documents(tmp_path, held_out=0.0).languages == ("a", "b")
    assert read_documents(tmp_path, held_out=0.0, languages=("b", "a")).languages == ("b", "a")
    assert f"{tmp_path} has no xyz; it has 2 languages: a, b" in refusal(
        lambda: read_documents(tmp_path, held_out=0.0, languages=("a", "xyz"))
    )


def test_the_sample_has_a_document_a_line():
    found = sample_documents(held_out=0.1)
    assert len(found.languages) == 31
    assert {each.learnt + each.held_out for each in found.census.values()} == {48}


def test_a_share_that_holds_nothing_out_is_refused_with_the_least_that_does(tmp_path):
    write(tmp_path)
    message = refusal(lambda: read_documents(tmp_path, held_out=1e-6))
    least = re.fullmatch(
        rf"{tmp_path}: a document of every language must be held out, as from a held_out of "
        r"([\d.]+) up; with 1e-06, none is in a, b",
        message,
    )
    assert least
    found = read_documents(tmp_path, held_out=float(least[1]))
    assert all(each.held_out for each in found.census.values())
    assert min(each.held_out for each in found.census.values()) == 1


def test_a_share_that_leaves_nothing_to_learn_is_refused(tmp_path):
    write(tmp_path, {"a": ["one"], "b": WORDS["b"]})
    assert "with held_out 0.99999, all are in a" in refusal(
        lambda: read_documents(tmp_path, held_out=0.99999)
    )


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_from_0_to_below_1(tmp_path, share):
    with pytest.raises(ValueError, match=rf"held out must be in \[0, 1\), got {share}$"):
        read_documents(tmp_path, held_out=share)


def test_languages_without_text_are_named(tmp_path):
    write(tmp_path)
    for language in ("c", "d"):
        (tmp_path / language).mkdir()
    assert refusal(lambda: read_documents(tmp_path, held_out=0.0)) == (
        f"{tmp_path}: a language must have text, got none in c, d"
    )


def test_damaged_and_empty_files_and_long_documents_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST", 9)
    write(tmp_path, {"a": ["one", "too long for a document"], "b": ["", " "]})
    (tmp_path / "c.txt").write_bytes(b"\xff")
    assert refusal(lambda: read_documents(tmp_path, held_out=0.0)) == (
        f"{tmp_path}: text must be whole, got\n"
        f"  {tmp_path}/a.txt, document 2: 23 characters, of at most 9 (a blank line ends one)\n"
        f"  {tmp_path}/b.txt: no text\n"
        "  text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got "
        f"{tmp_path}/c.txt line 1, byte 1: 0xff"
    )
