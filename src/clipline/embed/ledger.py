"""What is known of each file: its row from an earlier run, hashes seen in this run, and which rows are out of date."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from clipline.embed.item import Failure, Stat
from clipline.embed.parts import Parts, RowId
from clipline.embeddings.part import Row


class Original(NamedTuple):
    """The first row with some bytes, which shares its vector. size: width and height of the upright image."""

    row_id: RowId
    size: tuple[int, int]


class Entry(NamedTuple):
    """The row of a path. mtime: microseconds since 1970, or None where rows hold none."""

    bytes: int
    mtime: int | None
    sha256: str
    row_id: RowId


class FolderLedger:
    """The ledger of an embeddings folder (see `item.Ledger`).

    It takes the existing rows from `parts`. on_skip: called for each file whose row is up to date, by any thread.
    out_of_date: rows that newer ones have replaced, or whose file is no image any more. Memory: about 1 kB for each
    existing row, 300 bytes for each new one (docs/scale.md).
    """

    def __init__(self, parts: Parts, on_skip: Callable[[], None]) -> None:
        self._on_skip = on_skip
        self._entries: dict[str, Entry] = {}
        self._originals: dict[bytes, Original | Failure | None] = {}  # by hash; None: being embedded
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self.out_of_date: list[RowId] = []
        self.skipped = 0
        for row, row_id in parts.existing:
            # Two rows of one path: a run was killed before it could drop the older.
            if older := self._entries.get(row.path):
                self.out_of_date.append(older.row_id)
            self._entries[row.path] = Entry(row.bytes, row.mtime, row.sha256, row_id)
            self._originals[bytes.fromhex(row.sha256)] = Original(row_id, (row.width, row.height))
        parts.existing = []

    def is_unchanged(self, path: str, stat: Stat) -> bool:
        """By size and date; never, where the row or the file has no date."""
        entry = self._entries.get(path)
        if entry is None or not entry.mtime or not stat.mtime_ns:
            return False
        return (entry.bytes, entry.mtime) == (stat.bytes, stat.mtime_ns // 1000)

    def is_current(self, path: str, sha256: str, stat: Stat) -> bool:
        """By hash and date. With another date the file needs a new row, or each later run would read it again."""
        entry = self._entries.get(path)
        if entry is None or entry.sha256 != sha256:
            return False
        return not (entry.mtime and stat.mtime_ns) or entry.mtime == stat.mtime_ns // 1000

    def sha256(self, path: str) -> str | None:
        """The hash in the row of `path`; None where it has no row."""
        entry = self._entries.get(path)
        return entry.sha256 if entry else None

    def skip(self, path: str) -> None:
        """Keep the row of `path`."""
        with self._lock:
            self.skipped += 1
            self._seen.add(path)
        self._on_skip()

    def is_duplicate(self, sha256: str) -> bool:
        """True for bytes that have a vector, or are being embedded."""
        key = bytes.fromhex(sha256)
        if key in self._originals:
            return True
        self._originals[key] = None
        return False

    def original(self, sha256: str) -> Original | Failure:
        """The result of the first file with these bytes."""
        original = self._originals[bytes.fromhex(sha256)]
        assert original is not None, "a duplicate came before its original"
        return original

    def added(self, row: Row, row_id: RowId) -> None:
        """Record a new row; an earlier one of its path is out of date."""
        key = bytes.fromhex(row.sha256)
        if not self._originals.get(key):
            self._originals[key] = Original(row_id, (row.width, row.height))
        self._supersede(row.path)

    def failed(self, failure: Failure) -> None:
        """Record a file without a vector. If it was read, its earlier row is out of date; else that row stays."""
        if failure.sha256 is None:
            self._seen.add(failure.path)
            return
        self._originals[bytes.fromhex(failure.sha256)] = failure
        self._supersede(failure.path)

    def _supersede(self, path: str) -> None:
        if path in self._entries:
            self._seen.add(path)
            self.out_of_date.append(self._entries[path].row_id)

    def gone(self, unlisted: list[str]) -> list[RowId]:
        """Rows whose files no longer exist. unlisted: folders and shards that could not be listed; theirs may exist."""
        below = tuple("" if path == "." else f"{path.rstrip('/')}/" for path in unlisted)
        return [
            entry.row_id
            for path, entry in self._entries.items()
            if path not in self._seen and not (below and path.startswith(below))
        ]
