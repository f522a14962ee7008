"""Archives that unpack to more than they may; what else may be wrong is in test_prepared."""

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ilo_jax.corpora.archives import MOST, Most, unpack
from ilo_jax.corpora.preparing import prepare

FILES = {"a/one.txt": b"x" * 700, "a/two.txt": b"y" * 5000}


def zipped(folder: Path) -> tuple[Path, int]:
    """An archive of FILES, and what it unpacks to."""
    with zipfile.ZipFile(folder / "text.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return folder / "text.zip", sum(map(len, FILES.values()))


def tarred(folder: Path) -> tuple[Path, int]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (folder / "text.tar.gz").write_bytes(gzip.compress(stream.getvalue()))
    return folder / "text.tar.gz", len(stream.getvalue())


def of_bytes(most: int) -> Most:
    return MOST._replace(bytes=most)


def refusal(archive: Path, folder: Path, most_bytes: int) -> None:
    folder.mkdir(exist_ok=True)
    said = f"{archive} must unpack to at most {most_bytes} bytes (most_bytes), got more"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        unpack(archive, folder, most=MOST._replace(bytes=most_bytes, file_bytes=2**40))


def test_an_archive_packed_in_a_way_that_python_has_not_is_refused(tmp_path: Path):
    """Such as Deflate64, method 9, which other programs write for large files."""
    archive, size = zipped(tmp_path)
    data = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = data.index(signature)
        data[place + at : place + at + 2] = (9).to_bytes(2, "little")
    archive.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"is damaged, or no archive: .*not supported"):
        unpack(archive, tmp_path / "out", most=of_bytes(size))


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_name_in_an_archive_that_is_not_the_utf_8_it_claims_to_be(tmp_path: Path, place: str):
    archive = tmp_path / "text.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("é.txt", "x")
    data = archive.read_bytes()
    before, after = (data.split if place == "first" else data.rsplit)("é".encode(), 1)
    archive.write_bytes(before + b"\xff\xff" + after)
    with pytest.raises(ValueError, match=rf"^{archive} is damaged, or no archive: 'utf-8' codec"):
        prepare(archive, tmp_path / "data", name="text")


@pytest.mark.parametrize("made", [zipped, tarred])
def test_an_archive_unpacks_to_as_much_as_it_may_and_no_more(
    made: Callable[[Path], tuple[Path, int]], tmp_path: Path
):
    archive, size = made(tmp_path)
    folder = tmp_path / "whole"
    folder.mkdir()
    assert unpack(archive, folder, most=of_bytes(size)) == folder / "a"
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content
    for i, most_bytes in enumerate([size - 1, 699, 0]):
        refusal(archive, tmp_path / str(i), most_bytes)
        written = sum(f.stat().st_size for f in (tmp_path / str(i)).rglob("*") if f.is_file())
        assert written <= most_bytes


def test_what_a_tar_archive_ends_in_is_bounded(tmp_path: Path):
    archive, size = tarred(tmp_path)
    with archive.open("ab") as stream:
        stream.write(gzip.compress(bytes(2**25)))
    refusal(archive, tmp_path / "whole", size + 2**24)


def test_a_file_with_holes_counts_with_them(tmp_path: Path):
    """GNU tar keeps of it what is not a hole: here nothing, of 2**30 bytes."""
    member = tarfile.TarInfo("holes.txt")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (2**30, 0)
    header[483:495] = b"%011o\0" % 2**30
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive = tmp_path / "text.tar.gz"
    archive.write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    refusal(archive, tmp_path / "whole", 2**29)
    assert not list((tmp_path / "whole").iterdir())


@pytest.mark.parametrize("made", [zipped, tarred])
def test_each_file_and_their_number_are_bounded(
    made: Callable[[Path], tuple[Path, int]], tmp_path: Path
):
    archive, _ = made(tmp_path)
    unpacked = tmp_path / "whole"
    unpacked.mkdir()
    unpack(archive, unpacked, most=MOST._replace(file_bytes=5000, files=2))
    for i, (most, said) in enumerate([
        ({"file_bytes": 4999}, "4999 bytes a file (most_file_bytes), got 5000 in a/two.txt"),
        ({"files": 1}, "1 files (most_files), got more"),
    ]):
        folder = tmp_path / str(i)
        folder.mkdir()
        with pytest.raises(ValueError, match=rf"at most {re.escape(said)}$"):
            unpack(archive, folder, most=MOST._replace(**most))
        assert not (folder / "a/two.txt").exists()


def test_a_few_bytes_that_unpack_to_gigabytes_are_refused_as_they_come(tmp_path: Path):
    """A megabyte of zip is a gigabyte of text; a hole of any size is a tar of 138 bytes."""
    archive = tmp_path / "text.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("a.txt", bytes(MOST.file_bytes + 1))
    with pytest.raises(ValueError, match=r"must unpack to at most .* bytes a file .* in a\.txt$"):
        prepare(archive, tmp_path / "data", name="text")


@pytest.mark.parametrize("made", [zipped, tarred])
def test_whatever_is_changed_in_an_archive_the_archive_is_named(
    made: Callable[[Path], tuple[Path, int]], tmp_path: Path
):
    """Or all of it is there: nothing else is raised, nothing is written beside the folder."""
    archive, _ = made(tmp_path)
    tar = archive.suffix == ".gz"
    data = gzip.decompress(archive.read_bytes()) if tar else archive.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(150):
        changed = bytearray(data)
        for place in rng.integers(0, min(len(data), 2048), 1 + trial % 8):
            changed[place] = rng.integers(256)
        archive.write_bytes(gzip.compress(changed, 1) if tar else changed)
        folder = tmp_path / f"out{trial}"
        folder.mkdir()
        try:
            unpack(archive, folder, most=of_bytes(2**24))
        except ValueError as error:
            assert str(error).startswith(str(archive)), error  # noqa: PT017
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith("out")} == {archive.name}


def test_preparing_tells_how_much_an_archive_may_unpack_to(tmp_path: Path):
    archive, size = zipped(tmp_path)
    with pytest.raises(ValueError, match=rf"^{archive} must unpack to at most {size - 1} bytes"):
        prepare(archive, tmp_path / "data", name="text", most=of_bytes(size - 1))
    assert not (tmp_path / "data").exists()
