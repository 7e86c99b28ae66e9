"""What is known of each file: rows from earlier runs, hashes of this one, and which rows are out of date."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from clipline.embed.item import Failure, Stat
from clipline.embed.parts import Parts, Place
from clipline.embeddings.part import Row


class Original(NamedTuple):
    """Where the vector of some bytes is. size: width and height of the upright image."""

    place: Place
    size: tuple[int, int]


class Entry(NamedTuple):
    """The row of a path. mtime: microseconds since 1970, or None where rows hold none."""

    bytes: int
    mtime: int | None
    sha256: str
    place: Place


class FolderLedger:
    """Decides for each file whether it needs a row, a copy of one, or nothing (see `item.Ledger`).

    It takes the rows that `parts` found. on_skip: called for each file that needs nothing. out_of_date: rows that
    newer ones have replaced, or whose file has become useless. Memory: about 500 bytes for each row found, 200 for
    each new one.
    """

    def __init__(self, parts: Parts, on_skip: Callable[[], None]) -> None:
        self._on_skip = on_skip
        self._entries: dict[str, Entry] = {}
        self._originals: dict[bytes, Original | Failure | None] = {}  # by hash; None: being embedded
        self._seen: set[str] = set()
        self.out_of_date: list[Place] = []
        self.skipped = 0
        for row, place in parts.found:
            # Two rows of one path: a run was killed before it could drop the older.
            if older := self._entries.get(row.path):
                self.out_of_date.append(older.place)
            self._entries[row.path] = Entry(row.bytes, row.mtime, row.sha256, place)
            self._originals[bytes.fromhex(row.sha256)] = Original(place, (row.width, row.height))
        parts.found = []

    def is_unchanged(self, path: str, stat: Stat) -> bool:
        """By size and date; where either side knows no date, never."""
        entry = self._entries.get(path)
        if entry is None or not entry.mtime or not stat.mtime_ns:
            return False
        return (entry.bytes, entry.mtime) == (stat.bytes, stat.mtime_ns // 1000)

    def is_current(self, path: str, sha256: str, stat: Stat) -> bool:
        """By hash; with another date it needs a new row, or each run to come would read the file again."""
        entry = self._entries.get(path)
        if entry is None or entry.sha256 != sha256:
            return False
        return not (entry.mtime and stat.mtime_ns) or entry.mtime == stat.mtime_ns // 1000

    def sha256(self, path: str) -> str | None:
        """The hash in the row of `path`; None where there is no row."""
        entry = self._entries.get(path)
        return entry.sha256 if entry else None

    def skip(self, path: str) -> None:
        """The row of `path` stays."""
        self.skipped += 1
        self._seen.add(path)
        self._on_skip()

    def is_duplicate(self, sha256: str) -> bool:
        """True for bytes that have a vector, or are on their way to one."""
        key = bytes.fromhex(sha256)
        if key in self._originals:
            return True
        self._originals[key] = None
        return False

    def original(self, sha256: str) -> Original | Failure:
        """What the first file with these bytes came to."""
        found = self._originals[bytes.fromhex(sha256)]
        assert found is not None, "a copy came before its original"
        return found

    def added(self, row: Row, place: Place) -> None:
        """A new row; an earlier one of its path is out of date."""
        key = bytes.fromhex(row.sha256)
        if not self._originals.get(key):
            self._originals[key] = Original(place, (row.width, row.height))
        self._supersede(row.path)

    def failed(self, failure: Failure) -> None:
        """A file without a vector. One that could not be read keeps its earlier row; a useless one loses it."""
        if failure.sha256 is None:
            self._seen.add(failure.path)
            return
        self._originals[bytes.fromhex(failure.sha256)] = failure
        self._supersede(failure.path)

    def _supersede(self, path: str) -> None:
        if path in self._entries:
            self._seen.add(path)
            self.out_of_date.append(self._entries[path].place)

    def gone(self, unlisted: list[str]) -> list[Place]:
        """Rows whose files no longer exist. unlisted: folders and shards that could not be listed: theirs may exist."""
        below = tuple("" if path == "." else f"{path.rstrip('/')}/" for path in unlisted)
        return [
            entry.place
            for path, entry in self._entries.items()
            if path not in self._seen and not (below and path.startswith(below))
        ]
