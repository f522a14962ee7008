import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ilo_jax.corpora import parallel
from ilo_jax.corpora.parallel import SAMPLE, Parallel
from ilo_jax.corpora.prepared import VERSION, is_prepared, prepare, read_prepared

TEXT = {
    "eng_Latn": [f"sentence {number}" for number in range(20)],
    "deu_Latn": [f"Satz {number}" for number in range(20)],
    "zho_Hans": [f"句子 {number}" for number in range(20)],
}


def write_corpus(folder: Path, suffix: str, text: dict[str, list[str]] = TEXT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for code, lines in text.items():
        (folder / f"{code}.{suffix}").write_bytes("".join(f"{s}\n" for s in lines).encode())
    return folder


def write_flores(folder: Path) -> Path:
    """A folder as FLORES-200 has it: two splits of different size, and files beside them."""
    write_corpus(folder / "devtest", "devtest")
    write_corpus(folder / "dev", "dev", {code: lines[::-2] for code, lines in TEXT.items()})
    (folder / "README").write_text("words")
    return folder


def refusal(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def plain(corpus: Parallel) -> dict[str, list[str]]:
    return {code: list(text) for code, text in zip(corpus.languages, corpus.sentences, strict=True)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def flores_like(tmp_path: Path) -> Path:
    return write_flores(tmp_path / "flores200_dataset")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A dataset of TEXT."""
    return prepare(write_corpus(tmp_path / "text", "txt"), tmp_path / "data", name="text")


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
    separators = "\u2028 \x85 \x0b \x0c \x1c \r \x00 \ufeff \u200d".split(" ")
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
from ilo_jax.corpora import parallel, prepared
assert not {"tensorflow_datasets", "array_record", "google.protobuf"} & set(sys.modules)
folder = prepared.prepare(parallel.SAMPLE, sys.argv[1], name="sample")
assert prepared.read_prepared(folder).hash == parallel.sample().hash
"""


def test_without_tensorflow_and_with_tfds_only_where_it_is_used(tmp_path):
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW, str(tmp_path)]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=os.environ | path, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()


# What is left behind


def test_nothing_but_the_dataset_is_left_behind(tmp_path, flores_like, monkeypatch, capfd):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    archive = zipped(tmp_path / "flores.zip", flores_like)
    prepare(archive, tmp_path / "data", name="flores200")
    shards = {f"flores200-{split}.array_record-00000-of-00001" for split in ("dev", "devtest")}
    names = shards | {"dataset_info.json", "features.json"}
    assert files(tmp_path / "data").keys() == {f"flores200/1.0.0/{name}" for name in names}
    folders = {str(f.relative_to(tmp_path)) for f in (tmp_path / "data").rglob("*") if f.is_dir()}
    assert folders == {"data/flores200", "data/flores200/1.0.0"}
    assert not list(scratch.iterdir())
    assert not capfd.readouterr().out


@pytest.mark.parametrize("held", [True, False])
def test_a_dataset_that_is_there_stays(tmp_path, prepared, held):
    if not held:
        shutil.rmtree(prepared)
        prepared.mkdir()
    before = files(prepared)
    expected = f"{prepared} is there already: remove it, or choose another name"
    call = lambda: prepare(SAMPLE, tmp_path / "data", name="text")  # noqa: E731
    assert refusal(call, FileExistsError) == expected
    assert files(prepared) == before
    assert [entry.name for entry in prepared.parent.iterdir()] == ["1.0.0"]


def test_a_dataset_that_could_not_be_written_is_not_there(tmp_path, monkeypatch):
    from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter

    def fail(path: str, examples: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(ArrayRecordFileAdapter, "write_examples", fail)
    call = lambda: prepare(SAMPLE, tmp_path / "data", name="text")  # noqa: E731
    assert "no space left" in refusal(call, OSError)
    assert not files(tmp_path / "data")
    monkeypatch.undo()
    call()


def test_a_corpus_that_is_refused_writes_nothing(tmp_path):
    source = write_corpus(tmp_path / "text", "txt", {"a": ["x"], "b": ["x", "y"]})
    expected = refusal(lambda: parallel.read(source))
    assert refusal(lambda: prepare(source, tmp_path / "data", name="text")) == expected
    assert not (tmp_path / "data").exists()


# Archives


def tarred(file: Path, folder: Path, *, inside: str = "flores200_dataset", level: int = 6) -> Path:
    kind = tarfile.GNU_FORMAT  # one header a file
    with tarfile.open(file, "w:gz", format=kind, compresslevel=level) as archive:
        archive.add(folder, arcname=inside)
    return file


def zipped(file: Path, folder: Path, *, inside: str = "flores200_dataset", level: int = 6) -> Path:
    kind = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(inside, path.relative_to(folder)))
    return file


PACKERS = {".tar.gz": tarred, ".tgz": tarred, ".zip": zipped}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("inside", ["flores200_dataset", "."])
def test_an_archive_is_as_its_folder(tmp_path, flores_like, suffix, inside):
    archive = PACKERS[suffix](tmp_path / f"flores{suffix}", flores_like, inside=inside)
    folder = prepare(archive, tmp_path, name="archive")
    for split in ("dev", "devtest"):
        assert (
            read_prepared(folder, split=split).hash == parallel.read(flores_like, split=split).hash
        )


def test_what_macos_leaves_in_an_archive(tmp_path):
    source = write_corpus(tmp_path / "text", "txt")
    archive = zipped(tmp_path / "text.zip", source, inside="text")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("__MACOSX/text/._eng_Latn.txt", "x")
        more.writestr(".DS_Store", "x")
    assert read_prepared(prepare(archive, tmp_path, name="text")).hash == parallel.read(source).hash


def test_a_folder_named_like_an_archive(tmp_path):
    source = write_corpus(tmp_path / "text.zip", "txt")
    assert plain(read_prepared(prepare(source, tmp_path, name="text"))) == TEXT


@pytest.mark.parametrize("suffix", PACKERS)
def test_an_archive_with_a_bad_corpus_is_named(tmp_path, suffix):
    source = write_corpus(tmp_path / "text", "txt")
    (source / "eng_Latn.txt").write_bytes(b"x\n\xff\n")
    archive = PACKERS[suffix](tmp_path / f"text{suffix}", source, inside="text")
    assert refusal(lambda: prepare(archive, tmp_path, name="text")) == (
        f"text must be UTF-8, got\n  {archive}/text/eng_Latn.txt line 2, byte 1: 0xff"
    )


def test_an_archive_without_a_corpus(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/README").write_text("x")
    archive = tarred(tmp_path / "text.tgz", tmp_path / "text", inside="text")
    refused = refusal(lambda: prepare(archive, tmp_path, name="text"))
    assert refused.startswith(f"{archive}/text holds no corpus: ")
    assert refused.endswith("; it holds README")


UNSAFE = "{}: a member must be a plain file inside, and once, got\n"


def test_unsafe_members_of_a_tar_archive(tmp_path):
    archive = tmp_path / "text.tar.gz"
    names = ["a.txt", "../out.txt", "b/../../out.txt", f"{tmp_path}/out.txt", "./a.txt", "a.txt/b"]
    kinds = {"soft": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(archive, "w:gz") as members:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            members.addfile(member, io.BytesIO(b"x\n"))
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.txt"
            members.addfile(member)
    assert refusal(lambda: prepare(archive, tmp_path / "data", name="text")) == (
        UNSAFE.format(archive) + "  ../out.txt: lies outside\n"
        "  b/../../out.txt: lies outside\n"
        f"  {tmp_path}/out.txt: lies outside\n"
        "  ./a.txt: comes twice\n"
        "  a.txt/b: comes twice\n"
        "  soft: is a link, a device or encrypted\n"
        "  hard: is a link, a device or encrypted\n"
        "  pipe: is a link, a device or encrypted"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["text.tar.gz"]


def test_unsafe_members_of_a_zip_archive(tmp_path):
    archive = tmp_path / "text.zip"
    link = zipfile.ZipInfo("soft")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as members:
        for name in ["a.txt", "../out.txt", f"{tmp_path}/out.txt", link, "locked.txt"]:
            members.writestr(name, "x\n")
        members.filelist[-1].flag_bits |= 1
    assert refusal(lambda: prepare(archive, tmp_path / "data", name="text")) == (
        UNSAFE.format(archive) + "  ../out.txt: lies outside\n"
        f"  {tmp_path}/out.txt: lies outside\n"
        "  soft: is a link, a device or encrypted\n"
        "  locked.txt: is a link, a device or encrypted"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["text.zip"]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def changed(data: bytes) -> bytes:
    """Another text, of the same length; nothing but a checksum can tell."""
    assert b"sentence 3\n" in data
    return data.replace(b"sentence 3\n", b"sentence 4\n")


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("damage", [cut, changed, lambda data: b"text", lambda data: b""])
def test_damaged_archives(tmp_path, flores_like, suffix, damage):
    archive = PACKERS[suffix](tmp_path / f"flores{suffix}", flores_like, level=0)
    archive.write_bytes(damage(archive.read_bytes()))
    refused = refusal(lambda: prepare(archive, tmp_path / "data", name="text"))
    assert refused.startswith(f"{archive} is damaged, or no archive: ")
    assert not (tmp_path / "data").exists()


def test_a_tar_archive_with_a_header_of_zeros(tmp_path, flores_like):
    """To tarfile it is the end of the archive, with fewer languages."""
    archive = tarred(tmp_path / "flores.tgz", flores_like, level=0)
    data = archive.read_bytes()
    header = data.index(b"flores200_dataset/devtest/zho_Hans")
    archive.write_bytes(data[:header] + bytes(512) + data[header + 512 :])
    refused = refusal(lambda: prepare(archive, tmp_path / "data", name="text"))
    assert refused.startswith(f"{archive} is damaged, or no archive: CRC check failed")
    archive.write_bytes(gzip.compress(gzip.decompress(data)))
    prepare(archive, tmp_path / "data", name="text")


# What cannot be prepared


@pytest.mark.parametrize(
    "name", ["", "Flores", "flores-200", "200", "a/b", "../a", "flores\n", "é"]
)
def test_names(tmp_path, name):
    assert refusal(lambda: prepare(SAMPLE, tmp_path, name=name)) == (
        "name must be a lower-case letter, then lower-case letters, digits and underscores, "
        f"got {name!r}"
    )


@pytest.mark.parametrize("name", ["none", "none.zip", "none.tsv"])
def test_a_missing_source(tmp_path, name):
    source = tmp_path / name
    expected = f"no corpus at {source}: there is no such file or folder"
    assert refusal(lambda: prepare(source, tmp_path, name="a"), FileNotFoundError) == expected


@pytest.mark.parametrize("name", ["a.csv", "a.tar.bz2", "zip"])
def test_a_file_of_another_kind(tmp_path, name):
    (tmp_path / name).write_text("x")
    expected = "a corpus must be a folder, or a file .tar.gz, .tgz, .zip, .tsv, .jsonl, got "
    assert (
        refusal(lambda: prepare(tmp_path / name, tmp_path, name="a"))
        == f"{expected}{tmp_path / name}"
    )


def test_splits_in_different_languages(tmp_path):
    write_corpus(tmp_path / "dev", "dev", {"a": ["x"], "b": ["x"], "c": ["x"]})
    write_corpus(tmp_path / "devtest", "devtest", {"c": ["x"], "d": ["x"]})
    assert refusal(lambda: prepare(tmp_path, tmp_path, name="a")) == (
        f"{tmp_path}: all splits must have the same languages, got\n  dev: no d\n  devtest: no a, b"
    )


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
