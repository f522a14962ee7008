"""Where the files of a corpus lie; what is read of them is in test_parallel."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ilo_jax.corpora.languages import PAPER
from ilo_jax.corpora.layouts import choose_languages, find_splits
from ilo_jax.corpora.parallel import read

LINES = {"cmn_Hans": ["一", "二"], "eng_Latn": ["one", "two"], "apc_Arab_nort3139": ["a", "b"]}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    return str(caught.value)


def write(folder: Path, name: str) -> Path:
    """Files of LINES; {} is the language in their name."""
    for code, lines in LINES.items():
        file = folder / name.format(code)
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = [json.dumps({"id": i, "text": text}) for i, text in enumerate(lines)]
        chosen = texts if file.suffix == ".jsonl" else lines
        file.write_text("".join(f"{line}\n" for line in chosen))
    return folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("dev/{}.dev", "dev"),
        ("{}.devtest", "devtest"),
        ("devtest/devtest.{}", "devtest"),
        ("dev.{}", "dev"),
        ("dev/{}.jsonl", "dev"),
        ("devtest/{}.txt", "devtest"),
        ("{}.txt", ""),
        ("{}.jsonl", ""),
    ],
)
def test_every_layout_is_found_and_read(tmp_path, name, split):
    write(tmp_path, name)
    (tmp_path / "README").write_text("words")
    (tmp_path / "dev.md").write_text("words")
    files = {code: tmp_path / name.format(code) for code in LINES}
    assert find_splits(tmp_path) == {split: files}
    corpus = read(tmp_path, split=split)
    texts = dict(zip(corpus.languages, map(list, corpus.sentences), strict=True))
    assert texts == LINES


@pytest.mark.parametrize("name", ["{0}/{0}.{{}}", "{0}/{{}}.jsonl"])
def test_flores_plus_has_splits_of_different_languages(tmp_path, name):
    for split in ("dev", "devtest"):
        write(tmp_path, name.format(split))
    (tmp_path / name.format("dev").format("eng_Latn")).unlink()
    assert read(tmp_path, split="dev").languages == ("apc_Arab_nort3139", "cmn_Hans")
    assert len(read(tmp_path, split="devtest").languages) == 3


def test_a_link_to_nothing_is_no_missing_language(tmp_path):
    write(tmp_path, "{}.txt")
    loop, broken = tmp_path / "loop.txt", tmp_path / "broken.txt"
    broken.symlink_to(tmp_path / "nowhere.txt")
    loop.symlink_to(loop)
    assert refusal(lambda: read(tmp_path)) == (
        f"a file must not be a link to nothing (mend or remove it), got\n  {broken}\n  {loop}"
    )
    for link in (loop, broken):
        link.unlink()
    split = tmp_path / "dev"
    split.symlink_to(split)
    assert refusal(lambda: read(tmp_path)).endswith(f"got\n  {split}")
    split.unlink()
    (tmp_path / "deu_Latn.txt").symlink_to(tmp_path / "eng_Latn.txt")
    assert len(read(tmp_path).languages) == 4


def test_parquet_is_said_to_be_none_that_is_read(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/eng_Latn.parquet").write_bytes(b"PAR1")
    assert refusal(lambda: read(tmp_path)).endswith("it holds dev; parquet must be converted")


def test_a_language_may_be_asked_for_by_its_code_of_flores_200_or_flores_plus():
    there = ["cmn_Hans", "eng_Latn", "fil_Latn"]
    for asked in (["zho_Hans", "tgl_Latn"], ["cmn_Hans", "fil_Latn"]):
        assert choose_languages(asked, there, "here") == ["cmn_Hans", "fil_Latn"]
    assert choose_languages(["cmn_Hans"], ["zho_Hans"], "here") == ["zho_Hans"]
    assert refusal(lambda: choose_languages(["zho_Hans", "cmn_Hans"], there, "here")) == (
        "here: a language must come once, got more than once: cmn_Hans"
    )
    refused = refusal(lambda: choose_languages(["zho_Hant", "eng"], there, "here"))
    assert refused.startswith("here has no zho_Hant, eng (near: eng_Latn); it has 3 languages: ")


def test_the_languages_of_the_paper_are_in_flores_plus():
    plus = {"zho_Hans": "cmn_Hans", "tgl_Latn": "fil_Latn"}
    codes = [language.code for language in PAPER]
    there = [plus.get(code, code) for code in codes]
    assert choose_languages(codes, there, "here") == there
