"""Text of single languages is streamed from wherever it lies, and never held."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ilo_jax.corpora import monolingual
from ilo_jax.corpora.monolingual import find_texts
from tests.corpora.material import refusal
from tests.corpora.test_examples import prepared


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def records(*objects: object) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def streamed(path: Path, *, unit: Any = "paragraph", split: str = "") -> dict[str, list[str]]:
    """All documents by language, read twice."""
    pieces = find_texts(path, unit=unit, split=split)
    first, again = (
        {name: [text for piece in each for text in piece.stream()] for name, each in pieces.items()}
        for _ in range(2)
    )
    assert first == again
    return first


def test_a_folder_has_a_file_or_a_folder_for_each_language(tmp_path):
    folder = write(
        tmp_path,
        {
            "eng.txt": "one\ntwo\n\n \t\nthree",
            "deu.jsonl": records({"text": "eins\n\nzwei", "url": "x"}, {"text": "drei"}),
            "zho/b.txt": "三",
            "zho/a.txt": "\ufeff一\r\n\r\n二",
            "zho/c.jsonl": records({"text": "四"}),
            "zho/README.md": "words",
            "LICENSE": "words",
            ".hidden.txt": "words",
        },
    )
    assert streamed(folder) == {
        "deu": ["eins\n\nzwei", "drei"],
        "eng": ["one\ntwo", "three"],
        "zho": ["一", "二", "三", "四"],
    }


def test_every_line_may_be_a_document(tmp_path):
    write(tmp_path, {"eng.txt": "one \rtwo\r\n\n \nthree\n"})
    assert streamed(tmp_path, unit="line") == {"eng": ["one", "two", "three"]}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_holds_several_languages_one_among_the_other(tmp_path, mark):
    found = [("b", "eins"), ("a", "one\ntwo"), ("b", "zwei"), ("a", "three")]
    text = records(*({"language": name, "text": text, "id": 7} for name, text in found))
    file = write(tmp_path, {"all.jsonl": mark + text.replace("\n", "\r\n")}) / "all.jsonl"
    assert streamed(file) == {"a": ["one\ntwo", "three"], "b": ["eins", "zwei"]}


def test_a_prepared_dataset_holds_several_languages(tmp_path, monkeypatch):
    monkeypatch.setattr("ilo_jax.corpora.prepared.AT_ONCE", 2)
    found = [{"language": "ab"[i % 2], "text": f"word {i}"} for i in range(7)]
    folder = prepared(tmp_path, {"train": found}, {"language": "text", "text": "text"})
    assert {name: sorted(texts) for name, texts in streamed(folder).items()} == {
        "a": [f"word {i}" for i in (0, 2, 4, 6)],
        "b": [f"word {i}" for i in (1, 3, 5)],
    }
    assert "has no split 'test'" in refusal(lambda: streamed(folder, split="test"))


def test_a_dataset_of_another_kind_is_refused(tmp_path):
    folder = prepared(tmp_path, {"train": [{"text": "word"}]}, {"text": "text"})
    assert refusal(lambda: streamed(folder)) == (
        f"{folder} is a dataset of another kind: it must be array_record, with language and text, "
        "both text; got array_record: {'text': 'text'}"
    )


def test_a_blank_text_of_a_dataset_is_refused(tmp_path):
    found: Sequence[dict[str, Any]] = [{"language": "a", "text": " "}]
    folder = prepared(tmp_path, {"train": [*found]}, {"language": "text", "text": "text"})
    assert "example 0: text must be text that is not blank" in refusal(lambda: streamed(folder))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README": "x"}, f"text must be {monolingual.HOLDS}; {{path}} holds README"),
        (
            {"a.txt": "x", "a.jsonl": "{}", "b.txt": "x", "b/c.txt": "x", "b/d.txt": "x"},
            "{path}: a language must be one file or one folder, got a (2), b (2)",
        ),
        (
            {"a.jsonl": b'{"text": "\xff"}\n{"text": 1}\n[]\n{"text": " "}\n\n{"text": "x"}\n{}'},
            "{path}/a.jsonl: a line must be a JSON object with text, text that is not blank; got\n"
            "  line 1: no UTF-8, byte 11: 0xff\n"
            "  line 2: text is 1\n"
            "  line 3: is []\n"
            "  line 4: text is ' '\n"
            "  line 5: is blank\n"
            "  line 7: has no text",
        ),
        (
            {"a.txt": b"one\r\ntwo\nthr\xffee\n"},
            "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got "
            "{path}/a.txt line 3, byte 4: 0xff",
        ),
        (
            {"a.txt": "one\n".encode("utf-16")},
            "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got {path}/a.txt: UTF-16",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(tmp_path, files, message):
    write(tmp_path, files)
    assert refusal(lambda: streamed(tmp_path)) == message.format(path=tmp_path)


def test_a_link_to_nothing_is_refused(tmp_path):
    write(tmp_path, {"a.txt": "x"})
    (tmp_path / "b.txt").symlink_to(tmp_path / "nothing")
    assert "a link to nothing (mend or remove it), got" in refusal(lambda: streamed(tmp_path))


def test_what_is_no_text_is_refused(tmp_path):
    write(tmp_path, {"a.csv": "x", "b.jsonl": "", "c.jsonl": records({"text": "x"})})
    nothing = tmp_path / "nothing"
    assert refusal(lambda: streamed(nothing), FileNotFoundError) == (
        f"no text at {nothing}: there is no such file or folder"
    )
    csv = tmp_path / "a.csv"
    assert refusal(lambda: streamed(csv)) == f"text must be {monolingual.HOLDS}; got {csv}"
    assert refusal(lambda: streamed(tmp_path / "b.jsonl")) == f"{tmp_path / 'b.jsonl'} is empty"
    assert "line 1: has no language" in refusal(lambda: streamed(tmp_path / "c.jsonl"))
    assert "has no split 'dev'" in refusal(lambda: streamed(tmp_path, split="dev"))
