import gzip
import io
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from ilo_jax.corpora import parallel
from ilo_jax.corpora import preparing as module
from ilo_jax.corpora.parallel import SAMPLE
from ilo_jax.corpora.prepared import read_prepared
from ilo_jax.corpora.preparing import prepare
from tests.corpora.material import TEXT, files, plain, refusal, write_corpus

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
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        f"  {archive}/text/eng_Latn.txt line 2, byte 1: 0xff"
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
        "  soft: is a link or a device\n"
        "  hard: is a link or a device\n"
        "  pipe: is a link or a device"
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
        "  soft: is a link or a device\n"
        "  locked.txt: is encrypted (unpack it with its password, and give the folder)"
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
    write_corpus(tmp_path / "dev", "dev", {"a": ["x"] * 2, "b": ["x"] * 2, "c": ["x"] * 2})
    write_corpus(tmp_path / "devtest", "devtest", {"c": ["x"] * 2, "d": ["x"] * 2})
    assert refusal(lambda: prepare(tmp_path, tmp_path, name="a")) == (
        f"{tmp_path}: all splits must have the same languages (the folder of one can be prepared "
        "alone), got\n  dev: no d\n  devtest: no a, b"
    )


def test_a_split_that_is_too_large_is_refused_before_tfds_asks_for_tensorflow(
    tmp_path, flores_like, monkeypatch
):
    size = sum(len(line.encode()) for lines in TEXT.values() for line in lines)
    monkeypatch.setattr(module, "MOST_OF_A_SPLIT", size - 1)
    assert refusal(lambda: prepare(flores_like, tmp_path / "data", name="a")) == (
        f"{flores_like}: a split must have at most {size - 1} bytes of text to be prepared (its "
        f"folder can be read as it is), got\n  devtest: {size}"
    )
    assert not (tmp_path / "data").exists()


def test_lines_that_lack_a_sentence_are_left_out_of_all_languages(tmp_path, caplog):
    gaps = {"a": ["x", "", "y", "z"], "b": ["x", "w", "<range>", "z"]}
    source = write_corpus(tmp_path / "gaps", "txt", gaps)
    with pytest.raises(ValueError, match="must not be empty or a placeholder"):
        prepare(source, tmp_path, name="gaps")
    folder = prepare(source, tmp_path, name="gaps", drop_incomplete=True)
    assert caplog.messages == [f"left out 2 lines of {source}, train"]
    assert plain(read_prepared(folder)) == {"a": ["x", "z"], "b": ["x", "z"]}
