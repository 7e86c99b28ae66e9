"""Zip files, tar files and folders behind one interface: a list of safe members, and their bytes one by one."""

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

from clipline.data.archives.members import DamagedError, Member, MemberList, hidden, not_a_file, safe_name
from clipline.errors import CliplineError, UsageError, shorten
from clipline.utils.progress import Bar

# The most bytes that the headers of one member may have, long names included: tarfile reads headers of any size whole.
MAX_HEADER = 1 << 20
# zipfile unpacks bzip2 and LZMA without a limit on each read: a thousand packed bytes can fill all memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# What the standard library raises on bad bytes.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error)
_DAMAGE += (EOFError, ValueError, LookupError, OverflowError, RecursionError)


class Reader(Protocol):
    """An archive or folder. path: where it is. members: its files by name, without hidden ones."""

    path: Path
    members: dict[str, Member]

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        """Open the named members one after another, in the order in which the archive holds them."""


def open_reader(path: Path) -> Reader:
    """Open the folder, zip or tar file at `path`, and list its members.

    Raises UsageError where there is nothing, CliplineError where it is unsafe, DamagedError where it is cut short.
    """
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder. Fix: set `path` in the dataset's settings to what you have")
    with path.open("rb") as file:
        head = file.read(6)
    return Zip(path) if head.startswith(b"PK") else Tar(path, head)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what the standard library raises on the bytes of a damaged archive into DamagedError."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        # gzip and bz2 raise OSError without a number for bad bytes; with one, a system call failed.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged(path, error) from None
    except (NotImplementedError, RuntimeError) as error:
        # What zipfile raises for an unknown compression, and for a password.
        raise CliplineError(f"{path}: {error}. Fix: pack it again as a plain zip") from None


def damaged(path: Path, reason: object) -> DamagedError:
    """The error for an archive whose bytes are not what its headers promise."""
    return DamagedError(f"{path}: cut short or damaged ({path.stat().st_size:,} bytes): {reason}. Fix: get it again")


class Zip:
    """A zip file whose members have been listed and checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        checked = MemberList(str(path), path.stat().st_size)
        with damage(path), zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = safe_name(info.filename, str(path))
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise not_a_file(info.filename, str(path))
                if not info.filename.endswith("/") and kind != stat.S_IFDIR:
                    self._check_method(info)
                    checked.add(Member(name, info.file_size, info, crc=info.CRC))
        self.members = checked.visible()

    def _check_method(self, info: zipfile.ZipInfo) -> None:
        if info.compress_type not in _METHODS:
            method = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")
            raise CliplineError(
                f"{self.path}: member '{shorten(info.filename)}' is packed with {method}; only stored and deflated "
                "ones are unpacked here. Fix: pack it again as a plain zip"
            )

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        with zipfile.ZipFile(self.path) as archive:
            for name in names:
                with damage(self.path):
                    stream = archive.open(self.members[name].handle)
                with stream:
                    yield self.members[name], stream


class Tar:
    """A tar file, plain or compressed with gzip, bzip2 or xz, whose members have been listed and checked."""

    def __init__(self, path: Path, head: bytes) -> None:
        self.path = path
        self._open_packed = next((opener for magic, opener in _DECOMPRESSORS.items() if head.startswith(magic)), None)
        size = path.stat().st_size
        checked = MemberList(str(path), size)
        with (
            self._open() as (archive, stream, packed),
            Bar(f"listing {path.name}", size, "bytes") as bar,
            damage(path),
        ):
            while info := archive.next():
                archive.members.clear()  # else tarfile keeps every header in memory
                stream.left = MAX_HEADER
                bar.advance(packed.tell() - bar.done)
                checked.check_size(info.offset_data)
                name = safe_name(info.name, str(path))
                if not (info.isdir() or info.isreg()) or info.issparse():
                    raise not_a_file(info.name, str(path))
                if info.isreg():
                    checked.add(Member(name, info.size, info.offset))
            self._check_end(archive, stream)
        self.members = checked.visible()

    def _check_end(self, archive: tarfile.TarFile, stream: _LimitedReader) -> None:
        # tarfile takes a missing or broken header for the end; a complete archive ends with a block of zeros.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise damaged(self.path, "the mark of its end is missing")

    @contextmanager
    def _open(self) -> Iterator[tuple[tarfile.TarFile, _LimitedReader, IO[bytes]]]:
        with self.path.open("rb") as packed:
            limited = _LimitedReader(self._open_packed(packed) if self._open_packed else packed)
            with damage(self.path):
                try:
                    archive = tarfile.TarFile(fileobj=limited)
                except tarfile.ReadError:
                    raise CliplineError(
                        f"{self.path}: neither a zip nor a tar archive. Is the download complete?"
                    ) from None
            with archive:
                yield archive, limited, packed

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        by_offset = {self.members[name].handle: self.members[name] for name in names}
        with self._open() as (archive, limited, _):
            limited.left = sys.maxsize  # from here on it reads more than headers
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


class _LimitedReader:
    """A file for tarfile to read, with limits, since a forged header can ask for all memory.

    left: how many bytes may still be read.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.left = MAX_HEADER

    def read(self, size: int) -> bytes:
        self.left -= size
        if not 0 <= size <= MAX_HEADER or self.left < 0:
            raise tarfile.ReadError("a header claims an absurd size")
        return self._stream.read(size)


class Folder:
    """A folder on this machine, which is trusted: links in it are followed, and each folder is listed once.

    A link to a folder that holds the link, or all of this folder, is not followed: it leads out of what was asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.members = path, {}
        root, seen = path.resolve(), set()
        for folder, subfolders, files in os.walk(path, onerror=_fail, followlinks=True):
            real = Path(folder).resolve()
            seen.add(real)
            closed = seen.union(root.parents, real.parents)
            below = Path(folder).relative_to(path)
            shown = sorted(name for name in subfolders if not hidden(f"{(below / name).as_posix()}/"))
            subfolders[:] = [name for name in shown if (real / name).resolve() not in closed]
            for name in sorted(files):
                file = Path(folder, name)
                if file.is_file() and not hidden(name):
                    status, relative = file.stat(), file.relative_to(path).as_posix()
                    self.members[relative] = Member(relative, status.st_size, file, mtime=status.st_mtime_ns)

    def stream(self, names: Collection[str]) -> Iterator[tuple[Member, IO[bytes]]]:
        for name in names:
            with self.members[name].handle.open("rb") as stream:
                yield self.members[name], stream


def _fail(error: OSError) -> None:
    # os.walk silently skips folders that it may not read, and the images in them.
    raise error
