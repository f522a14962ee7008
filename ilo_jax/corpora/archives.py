"""Archives of text files, unpacked with distrust: plain files only, inside, once, and bounded."""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from ilo_jax.refusals import refuse

ARCHIVES = (".tar.gz", ".tgz", ".zip")
"""Names of those that can be read end in one of these."""

Members = Generator[tuple[str, IO[bytes] | None], None, None]
"""Names, and contents where they are plain files."""

DAMAGE = (
    EOFError,
    NotImplementedError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Python raises for an archive that is none, is cut or changed, or is packed in other ways."""


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> Path:
    """Write the files of an archive to an empty folder.

    Args:
        archive: A .tar.gz, .tgz or .zip file.
        folder: Where to.
        most_bytes: What it may unpack to; of a .tar.gz, the whole .tar. It is not read further.

    Returns:
        The folder, or where the archive holds nothing but one folder, as most do, that.

    Raises:
        ValueError: Naming all members that are no plain files, that would lie outside or come
            twice; or if it unpacks to more, or is damaged.
    """
    problems = []
    try:
        # Closed here, and not when somebody forgets what was raised.
        with closing(_members(archive, most_bytes)) as members:
            for name, content in members:
                problem = _problem(name, folder, plain=content is not None)
                if problem or content is None:
                    problems.append(f"{name}: {problem}")
                else:
                    _write(folder / name, content)
    except DAMAGE as error:
        raise ValueError(f"{archive} is damaged, or no archive: {error}") from error
    refuse(f"{archive}: a member must be a plain file inside, and once, got", problems)
    return _lone_folder(folder)


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as stream:
        shutil.copyfileobj(content, stream)


def _problem(name: str, folder: Path, *, plain: bool) -> str:
    """Why a member cannot be written to the folder; empty if it can."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "lies outside"
    if not plain:
        return "is a link, a device or encrypted"
    taken = (folder / path).exists() or any((folder / up).is_file() for up in path.parents)
    return "comes twice" if taken else ""


class _Bound:
    """How many bytes an archive may still unpack to."""

    def __init__(self, archive: Path, most_bytes: int):
        self.archive, self.most, self.taken = archive, most_bytes, 0

    def take(self, size: int) -> None:
        self.taken += size
        if self.taken > self.most:
            raise ValueError(
                f"{self.archive} must unpack to at most {self.most} bytes (most_bytes), got more"
            )


class _Bounded(NamedTuple):
    """A stream of which every byte that is read is counted."""

    stream: gzip.GzipFile
    bound: _Bound

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.bound.take(len(data))
        return data


def _members(archive: Path, most_bytes: int) -> Members:
    """Give name and content of all members but folders; None for what is no plain file."""
    bound = _Bound(archive, most_bytes)
    return _zipped(archive, bound) if archive.suffix == ".zip" else _tarred(archive, bound)


def _tarred(archive: Path, bound: _Bound) -> Members:
    with gzip.open(archive) as unzipped:
        # Counted where it is unzipped: headers may be as large as files, and so may what follows.
        stream: Any = _Bounded(unzipped, bound)
        with tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                if not member.isdir():
                    # What is sparse is larger here than in the archive.
                    bound.take(0 if member.sparse is None else member.size)
                    yield member.name, members.extractfile(member) if member.isreg() else None
        # The checksum is at the end, and tarfile stops at the first header of zeros.
        while stream.read(1 << 20):
            pass


def _zipped(archive: Path, bound: _Bound) -> Members:
    with zipfile.ZipFile(archive) as members:
        for member in members.infolist():
            if not member.is_dir():
                bound.take(member.file_size)  # no more than that is ever read of it
                encrypted = member.flag_bits & 1
                link = stat.S_ISLNK(member.external_attr >> 16)
                if encrypted or link:
                    yield member.filename, None
                else:
                    with members.open(member) as content:
                        yield member.filename, content


def _lone_folder(folder: Path) -> Path:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
