"""The interfaces of embedding: an image to embed, a source of many, and a ledger of those that have a row."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

# A 16-bit RGB TIFF with the most pixels that image.py decodes. A larger file is not read.
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Stat:
    """Size and date of a file: if they are unchanged, so is its image. mtime_ns: nanoseconds since 1970; 0: unknown."""

    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an input has no embedding. stage: scan, read, decode or infer. sha256: of its bytes; None if not read."""

    path: str
    stage: str
    reason: str
    sha256: str | None = field(default=None, compare=False)


class Item(Protocol):
    """One image. It must be picklable, because --engine ray sends it to workers.

    path: its name in the tables: valid text, unique in its source.
    """

    @property
    def path(self) -> str: ...

    def stat(self) -> Stat:
        """Size and date, without reading the file. Raises OSError."""

    def read(self) -> bytes:
        """The file's bytes, at most MAX_BYTES. Called from several threads at once. Raises OSError."""


class Source(Protocol):
    """Images in a fixed order: iterating again over unchanged images gives the same items.

    root: the folder or URL that each `path` is relative to. passed_over: a PassedOver of what was left out, in sources
    that choose files by name. holds_images: true in sources whose items hold their images, of which memory has room for
    few. Sources raise UsageError when they are made, if what they name does not exist, and CliplineError while they are
    iterated, if they cannot be listed to their end.
    """

    root: str

    def __iter__(self) -> Iterator[Item | Failure]: ...


class Ledger(Protocol):
    """What is known of files from earlier runs and from this one.

    `is_duplicate` is called by a single thread; the other methods must be thread-safe.
    """

    def is_unchanged(self, path: str, stat: Stat) -> bool:
        """Whether `path` has a row that is up to date, by size and date."""

    def is_current(self, path: str, sha256: str, stat: Stat) -> bool:
        """Whether `path` has a row that is up to date, by hash and date."""

    def skip(self, path: str) -> None:
        """Called for each item whose row is up to date."""

    def is_duplicate(self, sha256: str) -> bool:
        """Called in order for each file that needs a row: whether an earlier file has the same bytes."""


class NullLedger:
    """A ledger that knows no file: each one is embedded, even if it has the bytes of an earlier one."""

    def is_unchanged(self, path: str, stat: Stat) -> bool:
        return False

    def is_current(self, path: str, sha256: str, stat: Stat) -> bool:
        return False

    def skip(self, path: str) -> None:
        pass

    def is_duplicate(self, sha256: str) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class CellItem:
    """An image file that a row of a table holds. data: its bytes."""

    path: str
    data: bytes

    def stat(self) -> Stat:
        """The size; a row has no date."""
        return Stat(len(self.data), 0)

    def read(self) -> bytes:
        """The file's bytes."""
        return self.data


@dataclass(frozen=True, slots=True)
class FileItem:
    """An image file on this machine. path: its name in the tables. file: what to open."""

    path: str
    file: str

    def stat(self) -> Stat:
        """Raises OSError, also where it is not a regular file: opening a pipe would block for ever."""
        status = Path(self.file).stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        return Stat(status.st_size, status.st_mtime_ns)

    def read(self) -> bytes:
        """The file's bytes. Raises OSError."""
        self.stat()
        with Path(self.file).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_BYTES:
                raise OSError(f"{size:,} bytes is over the limit of {MAX_BYTES:,}")
            return stream.read()
