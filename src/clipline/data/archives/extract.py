"""Copy files out of archives and folders atomically and resumably, with progress in bytes."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from clipline.data.archives.members import DamagedError, Member
from clipline.data.archives.readers import Reader, damage
from clipline.errors import CliplineError
from clipline.utils.progress import Bar

CHUNK = 1 << 20


def read(reader: Reader, name: str) -> bytes:
    """One member's bytes. Raises DamagedError."""
    return b"".join(chunk for _, stream in reader.stream([name]) for chunk in _chunks(stream, reader.path))


def copy(reader: Reader, names: Mapping[str, str], folder: Path, title: str) -> None:
    """Write files into `folder`; names: {file name there: member}.

    A file that is there already and whole (by size, and by CRC or time where known) is kept. Each other one
    appears under its name only when complete, so a kill costs one file. Raises DamagedError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = {name: reader.members[member] for name, member in names.items()}
    with Bar(title, sum(member.size for member in members.values()), "bytes") as bar:
        left: dict[str, Path] = {}
        for name, member in members.items():
            if _whole(folder / name, member):
                bar.advance(member.size)
            else:
                left[member.name] = folder / name
        _check_space(folder, sum(reader.members[name].size for name in left))
        for member, stream in reader.stream(left):
            _write(member, stream, left[member.name], reader.path, bar)


def _whole(path: Path, member: Member) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if found.st_size != member.size or (member.mtime is not None and found.st_mtime_ns != member.mtime):
        return False
    return member.crc is None or zlib.crc32(path.read_bytes()) == member.crc


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CliplineError(f"{folder}: {needed / 1e6:,.0f} MB are needed and only {free / 1e6:,.0f} MB are free")


def _write(member: Member, stream: IO[bytes], target: Path, where: Path, bar: Bar) -> None:
    part = target.with_name(".part")
    written = 0
    with part.open("wb") as file:
        for chunk in _chunks(stream, where):
            file.write(chunk)
            written += len(chunk)
            bar.advance(len(chunk))
    if written != member.size:
        raise DamagedError(f"{where}: {member.name} has {written:,} bytes, not the {member.size:,} that were listed")
    if member.mtime is not None:
        os.utime(part, ns=(member.mtime, member.mtime))
    part.replace(target)


def _chunks(stream: IO[bytes], where: Path) -> Iterator[bytes]:
    with damage(where):
        while chunk := stream.read(CHUNK):
            yield chunk
