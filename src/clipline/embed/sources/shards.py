"""Images inside tar shards (WebDataset's layout), read in place: nothing is unpacked.

An uncompressed tar holds its files one after the other, so a member is a file, an offset and a size: several threads
read members of one shard at once, and a restart reads headers, not images. Only regular members with an image's
suffix are taken. Their names only become `path`: nothing is opened or written under them.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from clipline.embed.item import MAX_BYTES, Failure, Stat
from clipline.embed.sources.patterns import ImageFilter
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError, shorten
from clipline.utils.image_names import is_hidden

# What tarfile raises for headers that are damaged or malicious.
DAMAGE = (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError)
# Seconds since 1970 that fit into 64 bits of nanoseconds.
LAST_SECOND = 2**63 // 10**9
# Bytes of a member's headers, which hold long names and the like: far more than any system's path.
MAX_HEADER = 1 << 20
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
UNPACK = {"gzip": "gunzip -k", "bzip2": "bunzip2 -k", "xz": "unxz -k", "zstd": "unzstd"}


class DamagedError(tarfile.ReadError):
    """Damage that this module itself finds. Its message is a complete reason."""


@dataclass(frozen=True, slots=True)
class ShardItem:
    """One member. path: `shard.tar/folder/name.jpg`. offset: of its first byte in `shard`. header: size and date."""

    path: str
    shard: Path
    offset: int
    header: Stat

    def stat(self) -> Stat:
        """Size and date from the member's header."""
        return self.header

    def read(self) -> bytes:
        """The member's bytes. Raises OSError, also where the shard has become shorter."""
        if self.header.bytes > MAX_BYTES:
            raise OSError(f"{self.header.bytes:,} bytes is over the limit of {MAX_BYTES:,}")
        with self.shard.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.header.bytes)
        if len(data) < self.header.bytes:
            raise OSError("its shard ends before it does")
        return data


class Shards:
    """The images in `files`, in plain text order of the shards' paths, and inside a shard in the order of its members.

    root: the folder that the shards' names start from. A shard that is cut short, damaged or holds two members of one
    name (of which the first is taken) is also a Failure, after its good members. Memory: about 100 bytes per image of
    one shard. Raises UsageError where a shard is missing or compressed.
    """

    def __init__(
        self,
        files: Sequence[Path],
        root: Path,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        keep_machine_folders: bool = False,
    ) -> None:
        if missing := [file for file in files if not file.is_file()]:
            raise UsageError(f"{missing[0]}: no such shard ({len(missing):,} of {len(files):,} are not there)")
        self.root = str(root)
        self._shards = sorted((to_text(os.path.relpath(file, root)), file) for file in files)
        self._filter = ImageFilter(include, exclude, keep_machine_folders=keep_machine_folders)
        self.passed_over = self._filter.passed_over
        # Shards are usually packed alike: the first is checked now, the others when they are read.
        for _, file in self._shards[:1]:
            if problem := _packed(file):
                raise UsageError(f"{file}: {problem}")

    def __iter__(self) -> Iterator[ShardItem | Failure]:
        self.passed_over.clear()
        for name, file in self._shards:
            if self._filter.enters(f"{name}/"):
                yield from self._members(name, file)

    def _members(self, name: str, file: Path) -> Iterator[ShardItem | Failure]:
        seen: set[bytes] = set()
        repeated = ""
        try:
            if problem := _packed(file):
                raise DamagedError(problem)
            for member in _walk(file):
                item = self._item(name, file, member)
                if not item:
                    continue
                key = blake2b(item.path.encode(), digest_size=16).digest()
                if key in seen:
                    repeated = repeated or item.path
                else:
                    seen.add(key)
                    yield item
        except DAMAGE as error:
            yield Failure(name, "scan", _reason(error))
        if repeated:
            yield Failure(
                name, "scan", f"has two members of one name, such as {shorten(repeated)}: only the first is taken"
            )

    def _item(self, shard: str, file: Path, member: tarfile.TarInfo) -> ShardItem | Failure | None:
        """The image in `member`; None if it is not to be embedded. Leading slashes are dropped, as `tar -x` does."""
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        name = "/".join(parts)
        path, climbs = f"{shard}/{to_text(name)}", ".." in parts
        if member.isdir() or (is_hidden(name) and not climbs):
            return None
        if not (self._filter.enters(path) and self._filter.takes(path)):
            return None
        if climbs:
            return Failure(path, "scan", "its name leads out of the shard")
        if not member.isreg() or member.issparse():
            link = member.islnk() or member.issym()
            kind = "a sparse file" if member.issparse() else "a link" if link else "a device"
            return Failure(path, "scan", f"is {kind} in the shard, not a plain file")
        nanoseconds = int(member.mtime * 10**9) if 0 <= member.mtime < LAST_SECOND else 0
        return ShardItem(path, file, member.offset_data, Stat(member.size, nanoseconds))


class _Headers(io.BufferedReader):
    """A stream that limits what tarfile reads as headers: it would read one that claims to be huge into memory.

    left: bytes that the headers of the next member may still take; a sparse file's list can be endless.
    """

    left = MAX_HEADER

    def read(self, size: int | None = -1) -> bytes:
        size = -1 if size is None else size
        self.left -= size
        if size < 0 or self.left < 0:
            raise DamagedError(f"is damaged at byte {self.tell():,}: a header of {MAX_HEADER - self.left:,} bytes")
        return super().read(size)


def _walk(file: Path) -> Iterator[tarfile.TarInfo]:
    """Every complete member. Raises one of DAMAGE where the shard is damaged or ends too early."""
    with _Headers(io.FileIO(file)) as stream, tarfile.TarFile(fileobj=stream, encoding="utf-8") as tar:
        size = os.fstat(stream.fileno()).st_size
        before = -1
        while member := tar.next():
            tar.members.clear()  # tarfile would hold every header
            stream.left = MAX_HEADER
            if member.size < 0 or tar.offset <= before:  # following it would loop for ever
                raise DamagedError(f"is damaged at byte {member.offset:,}: a member of negative size")
            if member.isreg() and member.offset_data + member.size > size:
                raise DamagedError(f"is cut short: it ends at byte {size:,}, inside {shorten(to_text(member.name))}")
            before = tar.offset
            yield member
        # tarfile takes a block that it cannot read for the end mark, which consists of zeros.
        stream.seek(tar.offset)
        mark = stream.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise DamagedError(f"is cut short: it ends at byte {size:,}, without tar's end mark")
    if any(mark):
        raise DamagedError(f"is damaged at byte {tar.offset:,}: no tar header")


def _packed(file: Path) -> str:
    """How to unpack a compressed shard; empty for other files. Raises OSError."""
    with file.open("rb") as stream:
        head = stream.read(8)
    kind = next((name for magic, name in PACKED.items() if head.startswith(magic)), None)
    if not kind:
        return ""
    return f"is compressed with {kind}, so its members cannot be read one by one. Fix: {UNPACK[kind]} it first"


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return f"is damaged or cut short: {error or type(error).__name__}"
