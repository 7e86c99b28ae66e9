"""Images that a list or a table names by path: text files with one path per line, and columns of tables.

Every path is taken, in the order of the list, whatever its extension, and also if its name starts with a dot. A path is
relative to a root, or absolute; an absolute one below the root is written relative to it, so that both ways of naming a
file give the same row.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO

from clipline.embed.item import CellItem, Failure, FileItem
from clipline.embed.sources.patterns import Patterns
from clipline.embeddings.paths import to_text
from clipline.errors import CliplineError, UsageError, first_line

# Bytes. No system has longer paths, so a file with a longer line is not a list.
MAX_LINE = 1 << 16
STDIN = "-"


class Listing:
    """The files that a text file names, one path per line, or separated by NUL bytes as `find -print0` writes.

    file: the list, a pipe, or `-` for standard input; the last two are copied to a temporary file, so that they can be
    read again. root: the folder that relative paths start from; by default the list's folder, or for pipes the working
    folder. Blank lines are skipped, a file named twice is yielded once. Bytes that are not UTF-8 stay as they are.
    Memory: about 100 bytes per path, to recognise repeated ones. Raises UsageError where the list cannot be opened;
    iterating raises CliplineError where it cannot be read to its end.
    """

    def __init__(
        self, file: Path, root: Path | None = None, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> None:
        self._spooled: IO[bytes] | None = None
        piped = str(file) == STDIN or (file.exists() and not file.is_file() and not file.is_dir())
        if piped:
            self._spooled = _spool(file)
        else:
            check_file(file, "list of paths")
        self._label = "standard input" if str(file) == STDIN else str(file)
        self._file = Path(self._spooled.name) if self._spooled else file
        top = root or (Path() if piped else file.parent)
        self._paths = Paths(self._label, top, Patterns(include, exclude))
        self.root = self._paths.root
        with self._file.open("rb") as stream:
            head = stream.read(MAX_LINE)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UsageError(f"{self._label}: is UTF-16. Fix: save the list as UTF-8")
        self._end = b"\0" if b"\0" in head else b"\n"

    def __iter__(self) -> Iterator[FileItem | Failure]:
        return self._paths.items(self._lines())

    def _lines(self) -> Iterator[str]:
        with self._file.open("rb") as stream:
            for number, record in enumerate(_records(stream, self._end), 1):
                if len(record) > MAX_LINE:
                    raise CliplineError(
                        f"{self._label}: line {number:,} has more than {MAX_LINE:,} bytes: not a list of paths"
                    )
                line = record.removeprefix(b"\xef\xbb\xbf") if number == 1 else record
                yield os.fsdecode(line.removesuffix(b"\r") if self._end == b"\n" else line)


def _records(stream: IO[bytes], end: bytes) -> Iterator[bytes]:
    """Yield the records of a stream, which `end` separates; the last one is what follows the last `end`.

    Reading stops at a record longer than MAX_LINE; the part of it that was read is yielded.
    """
    rest = b""
    while block := stream.read(MAX_LINE):
        *records, rest = (rest + block).split(end)
        yield from records
        if len(rest) > MAX_LINE:
            break
    yield rest


def _spool(file: Path) -> IO[bytes]:
    """Copy a pipe to a temporary file, which is deleted with the object."""
    try:
        spooled = tempfile.NamedTemporaryFile(prefix="clipline-list-")  # noqa: SIM115 - lives as long as the Listing
        if str(file) == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, spooled)
        else:
            with file.open("rb") as stream:
                shutil.copyfileobj(stream, spooled)
        spooled.flush()
    except OSError as error:
        raise CliplineError(
            f"{file}: cannot be copied to {tempfile.gettempdir()}: {error.strerror or error}"
        ) from error
    return spooled


class Paths:
    """Turns paths into items: relative to a root, each once, if the patterns take it. label: the list, for errors."""

    def __init__(self, label: str, root: Path, patterns: Patterns) -> None:
        if not root.is_dir():
            raise UsageError(
                f"{root}: no such folder. Fix: give the folder that the paths of {label} start from as --root"
            )
        self.root = str(root)
        self._label = label
        self._folder = root
        self._tops = list(dict.fromkeys([root.absolute(), root.resolve()]))
        self._patterns = patterns

    def items(self, names: Iterable[str | CellItem | Failure]) -> Iterator[FileItem | CellItem | Failure]:
        """names: paths as os functions take them, of which blank ones are skipped, or items that have a path already.

        Raises CliplineError where the list cannot be read to its end: after half of it, images would look removed.
        """
        seen: set[bytes] = set()
        try:
            for name in names:
                if isinstance(name, Failure):
                    yield name
                elif isinstance(name, CellItem):
                    if self._patterns.takes(name.path):
                        yield name
                elif name.strip() and (item := self._new(name, seen)):
                    yield item
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise CliplineError(f"{self._label}: cannot be read to its end: {reason}") from error

    def _new(self, name: str, seen: set[bytes]) -> FileItem | Failure | None:
        item = self._item(name)
        key = blake2b(item.path.encode(), digest_size=16).digest()
        if key in seen or not self._patterns.takes(item.path.removeprefix("/")):
            return None
        seen.add(key)
        return item

    def _item(self, name: str) -> FileItem | Failure:
        if "://" in name:
            return Failure(to_text(name), "scan", "is a URL, where a list holds paths. Give its folder's URL instead")
        if "\0" in name:
            return Failure(to_text(name), "scan", "has a NUL character in it: not a path")
        # Path drops `./` and `//`, but keeps `..`, which may lead through a link.
        path = Path(name)
        if path.is_absolute():
            top = next((top for top in self._tops if path.is_relative_to(top)), None)
            path = path.relative_to(top) if top else path
        return FileItem(to_text(str(path)), str(self._folder / path))


def check_file(file: Path, what: str) -> None:
    """Raises UsageError where `file` cannot be read."""
    if file.is_dir():
        raise UsageError(f"{file}: is a folder, not a {what}")
    try:
        file.open("rb").close()
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
