"""Copy files out of archives and folders, with progress in bytes; a run that was killed goes on where it stopped."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from clipline.data.archives.members import DamagedError, Member
from clipline.data.archives.readers import Reader, damage
from clipline.errors import CliplineError, shorten
from clipline.utils.progress import Bar

CHUNK = 1 << 20


def read(reader: Reader, name: str) -> bytes:
    """The bytes of one member. Raises DamagedError."""
    return b"".join(chunk for _, stream in reader.stream([name]) for chunk in _chunks(stream, reader.path))


def copy(reader: Reader, names: Mapping[str, str], folder: Path, title: str) -> None:
    """Write members of an archive into `folder`.

    names: {file name in `folder`: member}. title: of the progress bar. A file that is there already and complete (by
    its size, and by CRC or time where known) is kept. Every other one appears under its name only when it is complete,
    so a kill costs one file. Raises DamagedError, or CliplineError where the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = {name: reader.members[member] for name, member in names.items()}
    with Bar(title, sum(member.size for member in members.values()), "bytes") as bar:
        missing: dict[str, Path] = {}
        for name, member in members.items():
            if _is_complete(folder / name, member):
                bar.advance(member.size)
            else:
                missing[member.name] = folder / name
        _check_space(folder, sum(reader.members[name].size for name in missing))
        for member, stream in reader.stream(missing):
            _write(member, stream, missing[member.name], reader.path, bar)


def _is_complete(path: Path, member: Member) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if status.st_size != member.size or (member.mtime is not None and status.st_mtime_ns != member.mtime):
        return False
    return member.crc is None or zlib.crc32(path.read_bytes()) == member.crc


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CliplineError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed and only {free / 1e6:,.0f} MB are free. Fix: free some space"
        )


def _write(member: Member, stream: IO[bytes], target: Path, source: Path, bar: Bar) -> None:
    part = target.with_name(".part")
    written = 0
    with part.open("wb") as file:
        for chunk in _chunks(stream, source):
            file.write(chunk)
            written += len(chunk)
            bar.advance(len(chunk))
    if written != member.size:
        sizes = f"{written:,} bytes, not the {member.size:,} that were listed"
        raise DamagedError(f"{source}: {shorten(member.name)} has {sizes}")
    if member.mtime is not None:
        os.utime(part, ns=(member.mtime, member.mtime))
    part.replace(target)


def _chunks(stream: IO[bytes], source: Path) -> Iterator[bytes]:
    with damage(source):
        while chunk := stream.read(CHUNK):
            yield chunk
