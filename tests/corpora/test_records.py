"""Files of JSON for every language, as FLORES+ has them; tables are in test_parallel."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ilo_jax.corpora.parallel import read


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    return str(caught.value)


def write(folder: Path, **records: Sequence[Mapping[str, object]]) -> Path:
    for code, lines in records.items():
        file = folder / f"{code}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


TWO = [{"id": 0, "text": "one ", "url": "x"}, {"id": 1, "text": "two", "url": "y"}]


def test_only_the_text_is_read_and_it_is_joined_by_id(tmp_path):
    corpus = read(write(tmp_path, a=TWO, b=TWO))
    assert corpus.sentences == (("one", "two"), ("one", "two"))
    assert corpus.name("b", 1) == f"{tmp_path}/b.jsonl line 2"
    write(tmp_path, b=TWO[::-1], c=TWO[:1])
    assert refusal(lambda: read(tmp_path)) == (
        f"{tmp_path}: the id of all lines must be those of {tmp_path}/a.jsonl, got others in\n"
        f"  {tmp_path}/b.jsonl\n  {tmp_path}/c.jsonl"
    )


def test_files_without_ids_are_joined_by_line(tmp_path):
    text = [{"text": "x"}, {"text": "y"}]
    assert read(write(tmp_path, a=text, b=text)).sentences == (("x", "y"),) * 2


def test_what_is_no_text_is_named(tmp_path):
    other = [{"id": 0, "sentence": "x"}, {"id": 1, "sentence": "y"}]
    write(tmp_path, a=TWO, b=other, c=[])
    assert refusal(lambda: read(tmp_path)) == (
        f"{tmp_path}: every line of a language's file must have a text, got none in\n"
        f"  {tmp_path}/b.jsonl\n  {tmp_path}/c.jsonl"
    )
    number = [TWO[0], TWO[1] | {"text": 7}]
    assert refusal(lambda: read(write(tmp_path, a=TWO, b=number), languages=["a", "b"])) == (
        f"{tmp_path}: a sentence must be text, got\n  b 2: 7"
    )
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n\n')
    assert refusal(lambda: read(tmp_path, languages=["b"])) == (
        f"{tmp_path}/b.jsonl: a line must be a JSON object, got\n  line 2: is blank"
    )
