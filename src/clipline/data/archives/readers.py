"""Zip files, tar files and folders behind one face: a list of safe members, and their bytes in turn."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from clipline.data.archives.members import Checked, DamagedError, Member, hidden, refuse_type, safe_name, visible
from clipline.errors import CliplineError, UsageError
from clipline.utils.progress import Bar

# Of one member, long names and all: tarfile reads headers whole, and lists inside them without end.
MAX_HEADER = 1 << 20
# zipfile takes in one piece whatever bzip2 and LZMA unpack to: a thousand bytes of them can fill all memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    RecursionError,
)


class Reader(Protocol):
    """An archive or folder. members: its visible files by name."""

    path: Path
    members: dict[str, Member]

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        """Open the named members one after another, in the archive's own order."""


def open_reader(path: Path) -> Reader:
    """A reader for whatever `path` is.

    Raises UsageError where it is nothing, CliplineError where it is unsafe, DamagedError where it is cut.
    """
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder. Set `path` in the dataset's settings to what you have")
    with path.open("rb") as file:
        head = file.read(6)
    return Zip(path) if head.startswith(b"PK") else Tar(path, head)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what the archive modules raise on bad bytes into DamagedError."""
    try:
        yield
    except _DAMAGE as error:
        raise damaged(path, error) from None
    except OSError as error:
        # bz2 says "Invalid data stream" with an OSError that no system call made.
        if error.errno is not None:
            raise
        raise damaged(path, error) from None
    except (NotImplementedError, RuntimeError) as error:
        # zipfile's words for a compression it does not know, and for a password.
        raise CliplineError(f"{path}: {error}. Pack it anew as a plain zip") from None


def damaged(path: Path, reason: object) -> DamagedError:
    """The error for bytes that are not what the archive promised."""
    return DamagedError(f"{path}: cut short or damaged ({path.stat().st_size:,} bytes): {reason}. Get it again")


class Zip:
    """A zip file, listed and checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        checked = Checked(str(path), path.stat().st_size)
        with damage(path), zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = safe_name(info.filename, str(path))
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise refuse_type(info.filename, str(path))
                if not info.filename.endswith("/") and kind != stat.S_IFDIR:
                    self._check_method(info)
                    checked.add(Member(name, info.file_size, info, crc=info.CRC))
        self.members = {member.name: member for member in visible(checked.members.values())}

    def _check_method(self, info: zipfile.ZipInfo) -> None:
        if info.compress_type not in _METHODS:
            method = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")
            raise CliplineError(
                f"{self.path}: member {info.filename!r} is packed with {method}, and only stored and deflated ones are "
                "unpacked here. Pack it anew as a plain zip"
            )

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        with zipfile.ZipFile(self.path) as archive:
            for name in names:
                with damage(self.path):
                    stream = archive.open(self.members[name].handle)
                with stream:
                    yield self.members[name], stream


class Tar:
    """A tar file, plain or compressed with gzip, bzip2 or xz, listed and checked."""

    def __init__(self, path: Path, head: bytes) -> None:
        self.path = path
        self._open_packed = next((opener for magic, opener in _DECOMPRESSORS.items() if head.startswith(magic)), None)
        size = path.stat().st_size
        checked = Checked(str(path), size)
        with (
            self._open() as (archive, stream, packed),
            Bar(f"listing {path.name}", size, "bytes") as bar,
            damage(path),
        ):
            while info := archive.next():
                archive.members.clear()  # tarfile would hold every header
                stream.left = MAX_HEADER
                bar.advance(packed.tell() - bar.done)
                checked.reach(info.offset_data)
                name = safe_name(info.name, str(path))
                if not (info.isdir() or info.isreg()) or info.issparse():
                    raise refuse_type(info.name, str(path))
                if info.isreg():
                    checked.add(Member(name, info.size, info.offset))
            self._check_end(archive, stream)
        self.members = {member.name: member for member in visible(checked.members.values())}

    def _check_end(self, archive: tarfile.TarFile, stream: _Guarded) -> None:
        # tarfile takes a missing or broken header for the end; a whole archive ends with a block of zeros.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise damaged(self.path, "it lacks the mark of its end")

    @contextmanager
    def _open(self) -> Iterator[tuple[tarfile.TarFile, _Guarded, IO[bytes]]]:
        with self.path.open("rb") as packed:
            guarded = _Guarded(self._open_packed(packed) if self._open_packed else packed)
            with damage(self.path):
                try:
                    archive = tarfile.TarFile(fileobj=guarded)
                except tarfile.ReadError:
                    raise CliplineError(
                        f"{self.path}: neither a zip nor a tar archive. Is the download whole?"
                    ) from None
            with archive:
                yield archive, guarded, packed

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        by_offset = {self.members[name].handle: self.members[name] for name in names}
        with self._open() as (archive, guarded, _):
            guarded.left = sys.maxsize  # from here on it reads more than headers
            for _ in range(len(by_offset)):
                with damage(self.path):
                    while info := archive.next():
                        archive.members.clear()
                        if info.offset in by_offset:
                            break
                    else:
                        raise damaged(self.path, "it changed while it was read")
                    stream = archive.extractfile(info)
                yield by_offset[info.offset], stream


class _Guarded:
    """A file that tarfile reads, with limits: a forged header can ask for all memory. left: bytes it may still read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.left = MAX_HEADER

    def read(self, size: int) -> bytes:
        self.left -= size
        if not 0 <= size <= MAX_HEADER or self.left < 0:
            raise tarfile.ReadError("a header of absurd size")
        return self._stream.read(size)


class Folder:
    """A folder on this machine, trusted: links in it are followed, each folder once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found, seen = [], set()
        for folder, below, files in os.walk(path, onerror=_fail, followlinks=True):
            seen.add(os.path.realpath(folder))
            open_to = [name for name in below if not hidden(name)]
            below[:] = sorted(name for name in open_to if os.path.realpath(Path(folder, name)) not in seen)
            for name in sorted(files):
                file = Path(folder, name)
                if file.is_file():
                    status = file.stat()
                    relative = file.relative_to(path).as_posix()
                    found.append(Member(relative, status.st_size, file, mtime=status.st_mtime_ns))
        self.members = {member.name: member for member in visible(found)}

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        for name in names:
            with self.members[name].handle.open("rb") as stream:
                yield self.members[name], stream


def _fail(error: OSError) -> None:
    # os.walk skips what it may not read, and its images with it.
    raise error
