"""Archives that unpack to more than they may; what else may be wrong is in test_prepared."""

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ilo_jax.corpora.archives import unpack
from ilo_jax.corpora.prepared import prepare

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


def refusal(archive: Path, folder: Path, most_bytes: int) -> None:
    folder.mkdir(exist_ok=True)
    said = f"{archive} must unpack to at most {most_bytes} bytes (most_bytes), got more"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        unpack(archive, folder, most_bytes=most_bytes)


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
        unpack(archive, tmp_path / "out", most_bytes=size)


@pytest.mark.parametrize("made", [zipped, tarred])
def test_an_archive_unpacks_to_as_much_as_it_may_and_no_more(
    made: Callable[[Path], tuple[Path, int]], tmp_path: Path
):
    archive, size = made(tmp_path)
    folder = tmp_path / "whole"
    folder.mkdir()
    assert unpack(archive, folder, most_bytes=size) == folder / "a"
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


def test_preparing_tells_how_much_an_archive_may_unpack_to(tmp_path: Path):
    archive, size = zipped(tmp_path)
    with pytest.raises(ValueError, match=rf"^{archive} must unpack to at most {size - 1} bytes"):
        prepare(archive, tmp_path / "data", name="text", most_bytes=size - 1)
    assert not (tmp_path / "data").exists()
