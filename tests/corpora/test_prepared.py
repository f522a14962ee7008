import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ilo_jax.corpora import parallel
from ilo_jax.corpora import prepared as module
from ilo_jax.corpora.parallel import SAMPLE
from ilo_jax.corpora.prepared import is_prepared, read_features, read_prepared
from ilo_jax.corpora.preparing import VERSION, prepare
from tests.corpora.material import TEXT, plain, refusal, write_corpus

# There and back


def test_the_sample_comes_back(tmp_path):
    folder = prepare(SAMPLE, tmp_path, name="sample")
    assert folder == tmp_path / "sample" / "1.0.0"
    assert read_prepared(folder).hash == parallel.sample().hash
    assert read_prepared(str(folder)).source == f"{folder} (train)"


@pytest.mark.parametrize("split", ["dev", "devtest"])
def test_splits_come_back(tmp_path, flores_like, split):
    folder = prepare(str(flores_like), str(tmp_path / "data"), name="flores200")
    expected = parallel.read(flores_like, split=split)
    corpus = read_prepared(folder, split=split)
    assert plain(corpus) == plain(expected)
    assert corpus.hash == expected.hash
    assert corpus.source == f"{folder} ({split})"


@pytest.mark.parametrize("split", ["dev", "devtest"])
def test_the_only_split_needs_no_choice(tmp_path, split):
    source = write_corpus(tmp_path / "source" / split, split)
    folders = [
        prepare(source.parent, tmp_path / "data", name="parent"),
        prepare(source, tmp_path / "data", name="itself"),
    ]
    for folder in folders:
        assert read_prepared(folder) == read_prepared(folder, split=split)
        assert read_prepared(folder).hash == parallel.read(source).hash


@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
def test_tables_come_back(tmp_path, suffix):
    table = {
        "tsv": "a/b\tid\ttext\nx\tä\t1\ny\tö\t2\n",
        "jsonl": '{"a/b": "x", "id": "ä", "text": "1"}\n{"a/b": "y", "id": "ö", "text": "2"}\n',
    }
    file = tmp_path / f"t.{suffix}"
    file.write_text(table[suffix])
    corpus = read_prepared(prepare(file, tmp_path, name="table"))
    assert plain(corpus) == {"a/b": ["x", "y"], "id": ["ä", "ö"], "text": ["1", "2"]}


def test_text_stays_as_it_is(tmp_path):
    separators = "\u2028 \x85 \x0b \x0c \x1c \x00 \ufeff \u200d".split(" ")
    odd = [f"a{mark}b" for mark in separators] + [
        "नमस्ते",
        "سلام",
        "👩🏽‍🚀",
        "e\u0301",
        "é",
        " x",
        "x\x00",
        '"',
    ]
    source = write_corpus(tmp_path / "odd", "txt", {"zh-Hant.x": odd})
    folder = prepare(source, tmp_path, name="odd")
    assert plain(read_prepared(folder)) == plain(parallel.read(source)) == {"zh-Hant.x": odd}


def test_tfds_alone_reads_what_was_prepared(tmp_path, flores_like):
    """The order there is another, or the tests above would tell nothing."""
    import tensorflow_datasets as tfds

    folder = prepare(flores_like, tmp_path, name="flores200")
    builder: Any = tfds.builder_from_directory(folder)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "dev": 10,
        "devtest": 20,
    }
    examples = list(builder.as_data_source(split="devtest"))
    ids = [example["id"] for example in examples]
    assert ids != sorted(ids) == list(range(20))
    assert examples[0]["text"] == {code: TEXT[code][ids[0]].encode() for code in TEXT}


@pytest.mark.slow
def test_flores_200(tmp_path, flores: Path):
    folder = prepare(flores, tmp_path, name="flores200")
    corpus = read_prepared(folder, split="devtest")
    assert len(corpus.languages) == 204
    assert {len(sentences) for sentences in corpus.sentences} == {1012}
    assert corpus.hash == parallel.read(flores, split="devtest").hash


WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder

class NoTensorFlow(PathFinder):  # whether it is installed or not
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name == "tensorflow" else super().find_spec(name, *rest)

sys.meta_path[sys.meta_path.index(PathFinder)] = NoTensorFlow
from ilo_jax.corpora import parallel, prepared, preparing
assert not {"tensorflow_datasets", "array_record", "google.protobuf"} & set(sys.modules)
folder = preparing.prepare(parallel.SAMPLE, sys.argv[1], name="sample")
assert prepared.read_prepared(folder).hash == parallel.sample().hash
"""


def test_without_tensorflow_and_with_tfds_only_where_it_is_used(tmp_path):
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW, str(tmp_path)]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=os.environ | path, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()


# What is asked for


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"languages": ["zho_Hans", "deu_Latn"]},
        {"sentences": 1},
        {"sentences": 20, "languages": ["eng_Latn"]},
    ],
)
def test_what_is_asked_for_is_what_the_folder_gives(tmp_path, prepared, asked):
    corpus = read_prepared(prepared, **asked)
    expected = parallel.read(tmp_path / "text", **asked)
    assert (corpus.languages, corpus.sentences) == (expected.languages, expected.sentences)


@pytest.mark.parametrize(
    "asked",
    [
        {"languages": ["zzz", "eng", "deu_Latn", "zho_Hant"]},
        {"languages": ["deu_Latn", "deu_Latn"]},
        {"sentences": 21},
        {"sentences": 0},
    ],
)
def test_refusals_are_those_of_the_folder(tmp_path, prepared, asked):
    expected = refusal(lambda: parallel.read(tmp_path / "text", **asked))
    refused = refusal(lambda: read_prepared(prepared, **asked))
    assert refused == expected.replace(str(tmp_path / "text"), f"{prepared} (train)")


@pytest.mark.parametrize("split", ["", "test", "dev[:2]", "all", "dev+devtest"])
def test_splits_are_chosen_by_name(tmp_path, flores_like, split):
    folder = prepare(flores_like, tmp_path, name="flores200")
    expected = refusal(lambda: parallel.read(flores_like, split=split))
    refused = refusal(lambda: read_prepared(folder, split=split))
    assert refused == expected.replace(str(flores_like), str(folder))


def test_a_split_of_a_dataset_without_splits(prepared):
    expected = f"{prepared} has no split 'dev': it has train"
    assert refusal(lambda: read_prepared(prepared, split="dev")) == expected


# Damage


def shard_of(folder: Path) -> Path:
    (shard,) = folder.glob("*.array_record-*")
    return shard


def test_a_changed_byte_of_a_shard_is_never_silent(prepared):
    shard = shard_of(prepared)
    data, expected = shard.read_bytes(), read_prepared(prepared)
    told = 0
    used = [place for place, byte in enumerate(data) if byte]
    for place in used[::29]:
        shard.write_bytes(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])
        try:
            assert read_prepared(prepared) == expected
        except ValueError as error:
            assert str(error).startswith(f"{prepared} (train) is damaged: ")  # noqa: PT017
            told += 1
    assert told > len(used[::29]) // 2


@pytest.mark.parametrize("size", [0, 1000, 65536, 100_000, -1])
def test_a_cut_shard(prepared, size):
    """At 65536 bytes TFDS reads as many examples as there were, and all are empty."""
    shard = shard_of(prepared)
    shard.write_bytes(shard.read_bytes()[:size])
    assert refusal(lambda: read_prepared(prepared)).startswith(f"{prepared} (train) is damaged: ")


def test_a_missing_shard(prepared):
    shard_of(prepared).unlink()
    refused = refusal(lambda: read_prepared(prepared))
    assert refused.startswith(f"{prepared} (train) is damaged: ")
    assert "No such file or directory" in refused


def test_a_shard_of_other_length(tmp_path, flores_like):
    folder = prepare(flores_like, tmp_path, name="flores200")
    dev, devtest = (next(folder.glob(f"*-{split}.*")) for split in ("dev", "devtest"))
    shutil.copy(devtest, dev)
    refused = refusal(lambda: read_prepared(folder, split="dev"))
    assert refused.startswith(f"{folder} (dev) is damaged: every id must be there, got\n  none ")


def test_a_shard_of_other_languages(tmp_path, prepared):
    other = {"eng_Latn": TEXT["eng_Latn"], "fra_Latn": TEXT["deu_Latn"]}
    source = write_corpus(tmp_path / "other", "txt", other)
    shutil.copy(shard_of(prepare(source, tmp_path / "data", name="other")), shard_of(prepared))
    assert plain(read_prepared(prepared, languages=["eng_Latn"])) == {"eng_Latn": TEXT["eng_Latn"]}
    refused = refusal(lambda: read_prepared(prepared))
    said = f"{prepared} (train) is damaged: every example must have a text in deu_Latn, got\n"
    assert refused.startswith(said + "  none with id 0\n  none with id 1\n")


def test_text_that_is_not_utf_8_is_named_by_language_and_id(prepared, monkeypatch):
    def spoilt(*asked: Any) -> list[Any]:
        examples = read_features(*asked)
        for example in examples:
            if example["id"].int64_list.value[0] in (3, 7):
                example["text/deu_Latn"].bytes_list.value[0] = b"d\xe9j\xe0"
        return examples

    monkeypatch.setattr(module, "read_features", spoilt)
    assert refusal(lambda: read_prepared(prepared)) == (
        f"{prepared} (train) is damaged: deu_Latn must be UTF-8, got\n"
        "  id 3, byte 2: 0xe9\n  id 7, byte 2: 0xe9"
    )


# What is no prepared dataset


def test_a_missing_folder(tmp_path):
    expected = f"no dataset at {tmp_path}/none: there is no such folder"
    assert refusal(lambda: read_prepared(tmp_path / "none"), FileNotFoundError) == expected


def test_folders_that_are_none(tmp_path, prepared):
    said = "{} is no prepared dataset: it must hold dataset_info.json; it holds {}"
    empty = tmp_path / "empty"
    empty.mkdir()
    file = empty / "file"
    assert refusal(lambda: read_prepared(empty)) == said.format(empty, "nothing")
    file.write_text("x")
    assert refusal(lambda: read_prepared(file)) == said.format(file, "nothing")
    parent = prepared.parent
    assert refusal(lambda: read_prepared(parent)) == said.format(parent, "1.0.0")
    source = tmp_path / "text"
    names = ", ".join(f"{code}.txt" for code in sorted(TEXT))
    assert refusal(lambda: read_prepared(source)) == said.format(source, names)


def test_is_prepared_tells_datasets_from_corpora(tmp_path, prepared):
    assert is_prepared(prepared)
    assert is_prepared(str(prepared))
    for path in (prepared.parent, tmp_path / "text", tmp_path / "none", shard_of(prepared)):
        assert not is_prepared(path)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[]"])
def test_broken_descriptions(prepared, name, content):
    (prepared / name).write_text(content)
    refused = refusal(lambda: read_prepared(prepared))
    assert refused.startswith(f"{prepared} is damaged, or no dataset of TFDS: ")


def test_a_missing_description_of_the_features(prepared):
    (prepared / "features.json").unlink()
    refused = refusal(lambda: read_prepared(prepared))
    assert refused.startswith(f"{prepared} is damaged, or no dataset of TFDS: ")


def test_datasets_of_another_kind(prepared):
    info = json.loads((prepared / "dataset_info.json").read_text())
    (prepared / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    assert refusal(lambda: read_prepared(prepared)) == (
        f"{prepared} is a dataset of another kind: it must have {{'format': 'array_record', "
        "'id': 'Tensor', 'text': 'Translation'}, got {'format': 'tfrecord', 'id': 'Tensor', "
        "'text': 'Translation'}"
    )
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    features = json.loads((prepared / "features.json").read_text())
    fields = features["featuresDict"]["features"]
    del fields["text"]
    fields["label"] = fields["id"]
    (prepared / "features.json").write_text(json.dumps(features))
    assert refusal(lambda: read_prepared(prepared)).endswith(
        "got {'format': 'array_record', 'id': 'Tensor', 'label': 'Tensor'}"
    )


def test_what_is_read_is_at_the_given_path_even_if_named_like_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = prepare(SAMPLE, "~", name="sample")
    assert folder == Path("~/sample", VERSION)
    assert read_prepared(folder).hash == parallel.sample().hash
    assert not (tmp_path / "home").exists()
