"""Archives of text files, unpacked with distrust: plain files only, inside, once, and bounded."""

import errno
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
from typing import Any, NamedTuple, NoReturn

from ilo_jax.refusals import refuse

ARCHIVES = (".tar.gz", ".tgz", ".zip")
"""Names of those that can be read end in one of these."""

LINK = "is a link or a device"
ENCRYPTED = "is encrypted (unpack it with its password, and give the folder)"
"""As the releases of FLORES+ are."""

DAMAGE = (
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Python raises for an archive that is none, is cut or changed, or is packed in other ways."""


class Member(NamedTuple):
    """What an archive has under a name."""

    name: str
    content: Any
    """A stream of its bytes; None if it is no plain file."""
    problem: str = ""
    """Why it is none."""


class Most(NamedTuple):
    """What an archive may unpack to; it is not read further."""

    bytes: int
    """Of all its files together; of a .tar.gz, of the whole .tar."""
    file_bytes: int
    """Of each of them."""
    files: int
    """How many, folders and all else included."""


MOST = Most(bytes=2**29, file_bytes=2**26, files=10_000)
"""Several times what FLORES-200 takes. Text that is read takes some five times as much memory."""


def unpack(archive: Path, folder: Path, *, most: Most) -> Path:
    """Write the files of an archive to an empty folder.

    Args:
        archive: A .tar.gz, .tgz or .zip file.
        folder: Where to.
        most: What it may unpack to.

    Returns:
        The folder, or where the archive holds nothing but one folder, as most do, that.

    Raises:
        ValueError: Naming all members that are no plain files, that would lie outside or come
            twice; or if it unpacks to more, or is damaged.
    """
    problems = []
    try:
        # Closed here, and not when somebody forgets what was raised.
        with closing(_members(archive, most)) as members:
            for member in members:
                if problem := _problem(member, folder):
                    problems.append(f"{member.name}: {problem}")
                else:
                    _write(folder / member.name, member.content)
    except DAMAGE as error:
        raise ValueError(f"{archive} is damaged, or no archive: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # of an offset before the start
            raise
        raise ValueError(f"{archive} is damaged: {error}") from error
    refuse(f"{archive}: a member must be a plain file inside, and once, got", problems)
    return _lone_folder(folder)


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as stream:
        shutil.copyfileobj(content, stream)


def _problem(member: Member, folder: Path) -> str:
    """Why a member cannot be written to the folder; empty if it can."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "lies outside"
    if member.problem:
        return member.problem
    taken = (folder / path).exists() or any((folder / up).is_file() for up in path.parents)
    return "comes twice" if taken else ""


class _Bound:
    """What an archive may still unpack to."""

    def __init__(self, archive: Path, most: Most):
        self.archive, self.most, self.bytes, self.files = archive, most, 0, 0

    def take(self, size: int) -> None:
        """Count bytes."""
        self.bytes += size
        if self.bytes > self.most.bytes:
            self._refuse(f"{self.most.bytes} bytes (most_bytes), got more")

    def open(self, name: str, size: int) -> None:
        """Count a file, whose bytes are counted elsewhere."""
        self.files += 1
        if self.files > self.most.files:
            self._refuse(f"{self.most.files} files (most_files), got more")
        if size > self.most.file_bytes:
            most = f"{self.most.file_bytes} bytes a file (most_file_bytes)"
            self._refuse(f"{most}, got {size} in {name}")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(f"{self.archive} must unpack to at most {what}")


class _Bounded(NamedTuple):
    """A stream of which every byte that is read is counted."""

    stream: gzip.GzipFile
    bound: _Bound

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.bound.take(len(data))
        return data


def _members(archive: Path, most: Most) -> Generator[Member, None, None]:
    """Give all members but folders."""
    bound = _Bound(archive, most)
    return _zipped(archive, bound) if archive.suffix == ".zip" else _tarred(archive, bound)


def _tarred(archive: Path, bound: _Bound) -> Generator[Member, None, None]:
    with gzip.open(archive) as unzipped:
        # Counted where it is unzipped: headers may be as large as files, and so may what follows.
        stream: Any = _Bounded(unzipped, bound)
        with tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                bound.open(member.name, member.size)
                if not member.isdir():
                    # What is sparse is larger here than in the archive.
                    bound.take(0 if member.sparse is None else member.size)
                    plain = member.isreg()
                    content = members.extractfile(member) if plain else None
                    yield Member(member.name, content, "" if plain else LINK)
        # The checksum is at the end, and tarfile stops at the first header of zeros.
        while stream.read(1 << 20):
            pass


def _zipped(archive: Path, bound: _Bound) -> Generator[Member, None, None]:
    with zipfile.ZipFile(archive) as members:
        for member in members.infolist():
            bound.open(member.filename, member.file_size)
            bound.take(member.file_size)  # no more than that is ever read of it
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                yield Member(member.filename, None, ENCRYPTED)
            elif stat.S_ISLNK(member.external_attr >> 16):
                yield Member(member.filename, None, LINK)
            else:
                with members.open(member) as content:
                    yield Member(member.filename, content)


def _lone_folder(folder: Path) -> Path:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
