import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilo_jax.corpora import examples
from ilo_jax.corpora.examples import Example, Examples, read_examples


def refusal(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def write(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def write_lines(file: Path, records: Sequence[object]) -> Path:
    return write(file, "".join(json.dumps(record) + "\n" for record in records))


def completions(path: Path, *, split: str = "") -> list[str]:
    """What is learnt, where nothing is given."""
    examples = read_examples(path, split=split).examples
    assert not [example for example in examples if example.prompt]
    return [example.completion for example in examples]


# Text


@pytest.mark.parametrize("end", ["", "\n", "\n\n \n"])
def test_paragraphs_of_a_text_file(tmp_path, end):
    file = write(tmp_path / "a.txt", "one\ntwo\n\nthree\n \t\n\n  four" + end)
    assert completions(file) == ["one\ntwo", "three", "  four"]
    assert read_examples(str(file)).source == str(file)


def test_byte_order_mark_carriage_returns_and_trailing_space(tmp_path):
    file = write(tmp_path / "a.txt", "\ufeffone \r\ntwo\u3000\r\n\r\n\ufeffx\r\n")
    assert completions(file) == ["one\ntwo", "\ufeffx"]


def test_only_newlines_end_a_line(tmp_path):
    odd = "a\u2028\u2028b\x0b\x0bc\x85\x85d"
    assert completions(write(tmp_path / "a.txt", odd)) == [odd]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_any_newline_ends_a_line(tmp_path, end):
    text = end.join(["one ", "two", " \t", "three", ""])
    assert completions(write(tmp_path / "a.txt", text)) == ["one\ntwo", "three"]


def test_a_folder_is_its_text_files_by_name(tmp_path):
    write(tmp_path / "b.txt", "three\n\nfour")
    write(tmp_path / "a.txt", "one\n\ntwo")
    write(tmp_path / "B.txt", "zero")
    write(tmp_path / "README.md", "words")
    write(tmp_path / "._a.txt", "what macOS leaves")
    (tmp_path / "more.txt").mkdir()
    assert completions(tmp_path) == ["zero", "one", "two", "three", "four"]


def test_text_files_without_a_paragraph(tmp_path):
    write(tmp_path / "a.txt", "")
    write(tmp_path / "b.txt", "x")
    write(tmp_path / "c.txt", " \n\n\t\n")
    said = "a text file must hold a paragraph, got\n"
    assert refusal(lambda: read_examples(tmp_path)) == (
        f"{said}  none in {tmp_path}/a.txt\n  none in {tmp_path}/c.txt"
    )
    assert refusal(lambda: read_examples(tmp_path / "c.txt")) == f"{said}  none in {tmp_path}/c.txt"


def test_text_that_is_not_utf_8(tmp_path):
    write(tmp_path / "a.txt", b"x\n\nxy\xffz")
    write(tmp_path / "b.txt", b"\xe9")
    assert refusal(lambda: read_examples(tmp_path)) == (
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        f"  {tmp_path}/a.txt line 3, byte 3: 0xff\n"
        f"  {tmp_path}/b.txt line 1, byte 1: 0xe9"
    )


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_other_files_that_are_not_utf_8(tmp_path, suffix):
    file = write(tmp_path / f"a.{suffix}", b'{"text":\n"\xff"}')
    expected = f"got\n  {file} line 2, byte 2: 0xff"
    assert refusal(lambda: read_examples(file)).endswith(expected)


# JSONL


def test_lines_of_both_kinds(tmp_path):
    records = [
        {"prompt": "a", "completion": "b"},
        {"text": "c\n\nd "},
        {"completion": " e", "prompt": ""},
    ]
    file = write_lines(tmp_path / "a.jsonl", records)
    examples = (Example("a", "b"), Example("", "c\n\nd "), Example("", " e"))
    assert read_examples(file) == Examples(examples, str(file))


def test_all_malformed_lines_are_named(tmp_path):
    lines = [
        '{"text": "x"}',
        '{"text": x}',
        "",
        "[]",
        '{"text": "x", "text": "y"}',
        "{}",
        '{"prompt": "x"}',
        '{"text": "x", "id": 1}',
        '{"text": 1}',
        '{"prompt": null, "completion": "\\ud83d"}',
    ]
    file = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert refusal(lambda: read_examples(file)) == (
        f"{file}: a line must be a JSON object of text, with text or prompt and completion, got\n"
        "  line 2: Expecting value at character 10\n"
        "  line 3: is blank\n"
        "  line 4: is []\n"
        "  line 5: a key must come once, got more than once: text\n"
        "  line 6: has no keys\n"
        "  line 7: has prompt\n"
        "  line 8: has text, id\n"
        "  line 9: text is 1\n"
        "  line 10: prompt is None, completion is '\\ud83d'"
    )


def test_empty_completions_are_named_by_their_lines(tmp_path):
    records = [{"text": "x"}, {"text": ""}, {"prompt": "x", "completion": " \n"}]
    file = write_lines(tmp_path / "a.jsonl", records)
    assert refusal(lambda: read_examples(file)) == (
        f"{file}: a completion must not be empty, got 2 that are "
        "(examples from 1, of a .jsonl file its lines): 2, 3"
    )


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_empty_files(tmp_path, suffix):
    file = write(tmp_path / f"a.{suffix}", "")
    assert refusal(lambda: read_examples(file)) == f"{file} is empty"


# SQuAD


def squad(*articles: Sequence[str]) -> dict[str, Any]:
    data = [{"title": "t", "paragraphs": [{"context": c, "qas": []} for c in a]} for a in articles]
    return {"data": data, "version": "1.1"}


def test_distinct_contexts_in_order(tmp_path):
    file = write(tmp_path / "a.json", json.dumps(squad(["b ", "a"], [], ["b ", "c", "a"])))
    assert completions(file) == ["b ", "a", "c"]


def test_json_that_is_broken(tmp_path):
    file = write(tmp_path / "a.json", '{"data": [\n  x]}')
    expected = f"{file} must be JSON, got at line 2, character 3: Expecting value"
    assert refusal(lambda: read_examples(file)) == expected


NOT_SQUAD = "{}: data[].paragraphs[] must be lists, with a text as context, got\n"


@pytest.mark.parametrize(
    ("document", "problems"),
    [
        ([], "  data: None"),
        ({"data": {}}, "  data: {}"),
        (
            {"data": [1, {"paragraphs": "x"}]},
            "  data[0].paragraphs: None\n  data[1].paragraphs: 'x'",
        ),
        (
            {"data": [{"paragraphs": [{"context": 1}, {}, 2, {"context": "x"}]}, {}]},
            "  data[1].paragraphs: None\n  data[0].paragraphs[0].context: 1\n"
            "  data[0].paragraphs[1].context: None\n  data[0].paragraphs[2].context: None",
        ),
    ],
)
def test_json_in_another_shape(tmp_path, document, problems):
    file = write(tmp_path / "a.json", json.dumps(document))
    assert refusal(lambda: read_examples(file)) == NOT_SQUAD.format(file) + problems


def test_json_without_contexts(tmp_path):
    file = write(tmp_path / "a.json", json.dumps(squad([])))
    assert refusal(lambda: read_examples(file)) == f"{file} has no examples"


def test_an_empty_context(tmp_path):
    file = write(tmp_path / "a.json", json.dumps(squad(["x", " "])))
    assert refusal(lambda: read_examples(file)).endswith("of a .jsonl file its lines): 2")


def test_xquad(xquad: Path):
    german = completions(xquad / "xquad.de.json")
    assert len(german) == len(completions(xquad / "xquad.en.json")) == 240
    assert german[0].startswith("Die Verteidigung der Panthers")


@pytest.fixture(scope="session")
def xquad(flores: Path) -> Path:
    """Return the folder of XQuAD, beside that of FLORES-200."""
    folder = Path(os.environ.get("XQUAD", flores.parent / "xquad"))
    if not (folder / "xquad.de.json").is_file():
        pytest.skip(f"no XQuAD at {folder}; set XQUAD to run this test")
    return folder


# What is none of these


def test_a_missing_path(tmp_path):
    expected = f"no examples at {tmp_path}/a.txt: there is no such file or folder"
    assert refusal(lambda: read_examples(tmp_path / "a.txt"), FileNotFoundError) == expected


def test_a_file_of_another_kind(tmp_path):
    file = write(tmp_path / "a.csv", "x")
    assert refusal(lambda: read_examples(file)) == (
        "examples must be a folder of .txt files, a prepared dataset, or a file "
        f".txt, .jsonl, .json, got {file}"
    )


def test_a_folder_with_nothing_to_read(tmp_path):
    said = f"{tmp_path} holds no examples: it must hold .txt files, or be a prepared dataset; "
    assert refusal(lambda: read_examples(tmp_path)) == f"{said}it holds nothing"
    write(tmp_path / "b.jsonl", "x")
    (tmp_path / "a").mkdir()
    assert refusal(lambda: read_examples(tmp_path)) == f"{said}it holds a, b.jsonl"


def test_a_split_of_text(tmp_path):
    file = write(tmp_path / "a.txt", "x")
    for path in (file, tmp_path):
        expected = f"{path} has no split 'train': it has no splits: leave split empty"
        assert refusal(lambda path=path: read_examples(path, split="train")) == expected


# Examples and their hash


def test_examples_made_by_hand_are_checked_as_well():
    assert refusal(lambda: Examples((), "here")) == "here has no examples"
    many = (Example("", "x"), *[Example("x", "")] * 12)
    numbers = ", ".join(map(str, range(2, 12)))
    assert refusal(lambda: Examples(many, "here")) == (
        "here: a completion must not be empty, got 12 that are "
        f"(examples from 1, of a .jsonl file its lines): {numbers}, and 2 more"
    )


def test_a_text_that_is_longer_than_any_is_named(monkeypatch):
    monkeypatch.setattr(examples, "LONGEST", 5)
    few = (Example("ab", "cde"), Example("ab", "cdef"), Example("", "123456"))
    assert refusal(lambda: Examples(few, "here")) == (
        "here: a text must have at most 5 characters (a blank line ends one in .txt), got\n"
        "  6 in example 2\n  6 in example 3"
    )


def test_a_link_to_nothing_is_no_missing_text(tmp_path):
    write(tmp_path / "a.txt", "one")
    (tmp_path / "b.txt").symlink_to(tmp_path / "none.txt")
    assert refusal(lambda: read_examples(tmp_path)).endswith(f"got\n  {tmp_path}/b.txt")


def test_a_number_of_too_many_digits_is_refused_with_its_file(tmp_path):
    file = write(tmp_path / "a.json", "9" * 5000)
    assert refusal(lambda: read_examples(file)).startswith(f"{file} must be JSON, got: ")


def test_the_hash_is_pinned():
    examples = Examples((Example("a", 'ä"'), Example("", "b")), "here")
    text = r'[["a", "\u00e4\""], ["", "b"]]'
    assert examples.hash == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_is_of_the_text_and_not_of_its_place(tmp_path):
    text = write(tmp_path / "a.txt", "one\n\ntwo")
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    first, second = read_examples(text), read_examples(lines)
    assert first.source != second.source
    assert first.hash == second.hash == dataclasses.replace(first, source="").hash


def test_the_hash_tells_apart_order_and_boundaries():
    several = [
        [("a", "b"), ("c", "d")],
        [("c", "d"), ("a", "b")],
        [("b", "a"), ("c", "d")],
        [("a", "b")],
        [("", "ab")],
        [("", "a"), ("", "b")],
        [("", "a\n\nb")],
        [("", "a"), ("", "b ")],
    ]
    made = [Examples(tuple(Example(*pair) for pair in pairs), "") for pairs in several]
    assert len({examples.hash for examples in made}) == len(several)


# Prepared datasets


def as_features(kinds: Mapping[str, object]) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    known = {"text": tfds.features.Text(), "str": np.str_, "int": np.int64, "bool": np.bool_}
    return {
        name: known[kind] if isinstance(kind, str) else {"en": known["text"]}
        for name, kind in kinds.items()
    }


def prepared(
    folder: Path, splits: dict[str, list[dict[str, Any]]], kinds: Mapping[str, object]
) -> Path:
    """A dataset as others may write it; `kinds` are its features."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(as_features(kinds))

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self) -> None:
            """Ask nobody on the net."""

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")
        url_infos = None

        def _info(self):
            return Info(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {name: enumerate(records) for name, records in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Other.name = "other"
    builder: Any = Other(data_dir=folder, file_format="array_record")
    with tempfile.TemporaryDirectory() as nothing:
        builder.download_and_prepare(download_dir=nothing)
    return folder / "other" / "2.0.0"


def test_a_dataset_in_the_order_of_its_ids(tmp_path):
    records = [{"id": 30 - i, "text": f"ä {30 - i}"} for i in range(20)]
    folder = prepared(tmp_path, {"train": records}, {"id": "int", "text": "text"})
    assert completions(folder) == [f"ä {i}" for i in range(11, 31)]
    assert read_examples(str(folder)).source == f"{folder} (train)"


def test_ids_of_text(tmp_path):
    records = [{"id": one, "prompt": "", "completion": one} for one in ["b", "é", "a", "10", "9"]]
    kinds = {"id": "text", "prompt": "text", "completion": "text"}
    folder = prepared(tmp_path, {"train": records}, kinds)
    assert completions(folder) == ["10", "9", "a", "b", "é"]


def test_a_dataset_without_ids(tmp_path):
    records = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(20)]
    kinds = {"prompt": "text", "completion": "str"}
    examples = read_examples(prepared(tmp_path, {"train": records}, kinds)).examples
    expected = [Example(f"p{i}", f"c{i}") for i in range(20)]
    assert examples != tuple(expected)
    assert sorted(examples) == sorted(expected)


def test_splits_of_a_dataset(tmp_path):
    splits = {"train": [{"text": "a"}], "test": [{"text": "b"}]}
    folder = prepared(tmp_path, splits, {"text": "text"})
    assert completions(folder, split="test") == ["b"]
    assert completions(folder, split="train") == ["a"]
    said = f"{folder} has the splits train, test: choose one with split="
    assert refusal(lambda: read_examples(folder)) == said
    said = f"{folder} has no split 'dev': it has train, test"
    assert refusal(lambda: read_examples(folder, split="dev")) == said


def test_bytes_of_a_dataset_that_are_not_utf_8(tmp_path):
    records = [{"id": i, "text": one} for i, one in enumerate([b"x", b"x\xff", b"\xe9"])]
    folder = prepared(tmp_path, {"train": records}, {"id": "int", "text": "text"})
    assert refusal(lambda: read_examples(folder)) == (
        f"{folder} (train): text must be UTF-8, got\n"
        "  example 2, byte 2: 0xff\n  example 3, byte 1: 0xe9"
    )


def test_ids_that_come_twice(tmp_path):
    records = [{"id": one, "text": "x"} for one in (7, 3, 7)]
    folder = prepared(tmp_path, {"train": records}, {"id": "int", "text": "text"})
    expected = f"{folder} (train): an id must come once, got more than once: 7"
    assert refusal(lambda: read_examples(folder)) == expected


def test_empty_completions_of_a_dataset(tmp_path):
    records = [{"id": i, "text": one} for i, one in enumerate(["x", "", "x"])]
    folder = prepared(tmp_path, {"train": records}, {"id": "int", "text": "text"})
    assert refusal(lambda: read_examples(folder)).endswith(" its lines): 2")


OTHER_KINDS = [
    ({"text": "str", "label": "int"}, "{'label': 'integer', 'text': 'text'}"),
    ({"prompt": "str"}, "{'prompt': 'text'}"),
    ({"text": "int"}, "{'text': 'integer'}"),
    ({"text": "str", "id": "bool"}, "{'id': 'Tensor', 'text': 'text'}"),
    ({"text": ["en"]}, "{'text': 'FeaturesDict'}"),
    ({"id": "int"}, "{'id': 'integer'}"),
]
VALUES = {"text": "x", "str": "x", "int": 1, "bool": True}


@pytest.mark.parametrize(("kinds", "got"), OTHER_KINDS)
def test_datasets_of_another_kind(tmp_path, kinds, got):
    record = {k: VALUES[v] if isinstance(v, str) else {"en": "x"} for k, v in kinds.items()}
    folder = prepared(tmp_path, {"train": [record]}, kinds)
    assert refusal(lambda: read_examples(folder)) == (
        f"{folder} is a dataset of another kind: it must be array_record, of text, or of prompt "
        "and completion, all text, and may have an id, text or integer; "
        f"got array_record: {got}"
    )


def test_a_dataset_in_another_format(tmp_path):
    folder = prepared(tmp_path, {"train": [{"text": "x"}]}, {"text": "text"})
    info = json.loads((folder / "dataset_info.json").read_text())
    write(folder / "dataset_info.json", json.dumps(info | {"fileFormat": "tfrecord"}))
    assert refusal(lambda: read_examples(folder)).endswith("; got tfrecord: {'text': 'text'}")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_broken_descriptions(tmp_path, name, content):
    folder = prepared(tmp_path, {"train": [{"text": "x"}]}, {"text": "text"})
    write(folder / name, content)
    said = f"{folder} is damaged, or no dataset of TFDS: "
    assert refusal(lambda: read_examples(folder)).startswith(said)


@pytest.mark.parametrize("size", [0, 65536, -1])
def test_a_cut_shard(tmp_path, size):
    """At 65536 bytes there are as many examples as there were, and all are empty."""
    folder = prepared(tmp_path, {"train": [{"text": "x"}, {"text": "y"}]}, {"text": "text"})
    (shard,) = folder.glob("*.array_record-*")
    shard.write_bytes(shard.read_bytes()[:size])
    refused = refusal(lambda: read_examples(folder))
    assert refused.startswith(f"{folder} (train) is damaged: ")
    if size == 65536:
        said = "every example must have its text, got\n  none in number 1\n  none in number 2"
        assert refused.endswith(said)


@pytest.mark.parametrize("lengths", [[], ["0"]])
def test_a_split_without_examples(tmp_path, lengths):
    """TFDS writes none, but reads what a description says."""
    folder = prepared(tmp_path, {"train": [{"text": "x"}]}, {"text": "text"})
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = lengths
    write(folder / "dataset_info.json", json.dumps(info))
    said = f"{folder} (train) is damaged: Paths sequence can not be of 0 length"
    assert refusal(lambda: read_examples(folder)) == said


WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder

class NoTensorFlow(PathFinder):  # whether it is installed or not
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name == "tensorflow" else super().find_spec(name, *rest)

sys.meta_path[sys.meta_path.index(PathFinder)] = NoTensorFlow
from ilo_jax.corpora import examples
assert not {"tensorflow_datasets", "array_record", "google.protobuf"} & set(sys.modules)
assert examples.read_examples(sys.argv[1]).examples == (("", "x"),)
"""


def test_without_tensorflow_and_with_tfds_only_where_it_is_used(tmp_path):
    folder = prepared(tmp_path, {"train": [{"text": "x"}]}, {"text": "text"})
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW, str(folder)]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=os.environ | path, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()
