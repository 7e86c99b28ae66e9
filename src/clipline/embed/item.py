"""What is to be embedded: one image somewhere, and where many of them come from."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

# A 16-bit RGB TIFF of the most pixels that image.py takes. Above it a file is not even read.
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells an unchanged image without reading it. mtime_ns: nanoseconds since 1970, 0 where unknown."""

    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one input has no embedding. stage: scan, read, decode or infer. sha256: of its bytes, once they are read."""

    path: str
    stage: str
    reason: str
    sha256: str | None = field(default=None, compare=False)


class Item(Protocol):
    """One image. path: its name in the tables, valid text, unique in its source."""

    @property
    def path(self) -> str: ...

    def stat(self) -> Stat:
        """Cheap. Raises OSError."""

    def read(self) -> bytes:
        """The file's bytes, at most MAX_BYTES. Called from several threads at once. Raises OSError."""


class Source(Protocol):
    """Images in a fixed order: two walks over unchanged images give the same items.

    root: where `path` starts from, for the manifest: a folder, or a URL. Raises UsageError when made, if there is
    nothing of that name.
    """

    @property
    def root(self) -> str: ...

    def __iter__(self) -> Iterator[Item | Failure]: ...


class Ledger(Protocol):
    """What is known of files from earlier runs and from this one.

    `is_unchanged`, `is_current` and `sha256` are called by several threads at once.
    """

    def is_unchanged(self, path: str, stat: Stat) -> bool:
        """Whether `path` has a row that is up to date, by size and date."""

    def is_current(self, path: str, sha256: str, stat: Stat) -> bool:
        """Whether `path` has a row that is up to date, by hash and date."""

    def sha256(self, path: str) -> str | None:
        """The hash in the row of `path`; None where it has no row."""

    def skip(self, path: str) -> None:
        """Called in order for each item whose row is up to date."""

    def is_duplicate(self, sha256: str) -> bool:
        """Called in order for each file that needs a row: whether an earlier file has the same bytes."""


class NullLedger:
    """A ledger that knows no file: each one is embedded, even if it has the bytes of an earlier one."""

    def is_unchanged(self, path: str, stat: Stat) -> bool:
        return False

    def is_current(self, path: str, sha256: str, stat: Stat) -> bool:
        return False

    def sha256(self, path: str) -> str | None:
        return None

    def skip(self, path: str) -> None:
        pass

    def is_duplicate(self, sha256: str) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class FileItem:
    """An image file on this machine. path: as the tables name it. file: what the system opens."""

    path: str
    file: Path

    def stat(self) -> Stat:
        """Raises OSError, also where it is no regular file: opening a pipe would wait for ever."""
        facts = self.file.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise OSError("not a regular file")
        return Stat(facts.st_size, facts.st_mtime_ns)

    def read(self) -> bytes:
        """Raises OSError."""
        self.stat()
        with self.file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_BYTES:
                raise OSError(f"{size:,} bytes is over the limit of {MAX_BYTES:,}")
            return stream.read()
