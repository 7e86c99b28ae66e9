"""The image files below a folder, in order, without a list of them in memory.

Images are known by suffix, not by content: a text file named .jpg fails to decode and is listed in errors.parquet;
leaving it out would hide it. Other files, and folders that machines fill, are passed over and counted. Names that
start with a dot are skipped, as shells do: thumbnails, and the `._photo.jpg` that macOS leaves on other disks. Links
are followed, unless they lead to a folder that holds the link or the root: that would be out of what was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clipline.embed.item import Failure, FileItem
from clipline.embed.sources.patterns import ImageFilter
from clipline.embeddings.paths import to_name, to_text
from clipline.errors import UsageError

# Device and inode: the same folder has the same, whatever path leads to it.
Identity = tuple[int, int]


class Folder:
    """Every image file below `folder` in plain text order of `path`; folders that cannot be listed are Failures.

    skip: a folder inside to leave out, such as the output folder. include, exclude, keep_machine_folders: see
    `patterns`; an excluded folder is not listed. passed_over: what the walk has left out by its name so far. Memory:
    one folder's names per level. Raises UsageError where there is no such folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        skip: Path | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        keep_machine_folders: bool = False,
    ) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
        self.root = str(folder)
        self._skip = skip
        name = folder.resolve().name
        self._filter = ImageFilter(include, exclude, keep_machine_folders=keep_machine_folders, root=name)
        self.passed_over = self._filter.passed_over

    def __iter__(self) -> Iterator[FileItem | Failure]:
        self.passed_over.clear()
        # A stack, not recursion: folders may be nested deeper than Python's calls.
        walked = [self._level("", self.root, ())]
        while walked:
            level = walked[-1]
            name = next(level.names, None)
            if name is None:
                walked.pop()
            elif isinstance(name, Failure):
                yield name
            elif not name.endswith("/"):
                yield FileItem(level.prefix + name, _below(level.folder, name))
            elif self._filter.enters(level.prefix + name):
                walked.append(self._level(level.prefix + name, _below(level.folder, name[:-1]), level.closed))

    def _level(self, prefix: str, folder: str, closed: tuple[Identity, ...]) -> _Level:
        """A folder with its names: none if it is `closed` or `skip`, and a Failure if it cannot be listed."""
        try:
            identity = _identity(folder)
            if not prefix or os.path.islink(folder):  # noqa: PTH114 - as in _below
                closed += _above(folder)
            if identity in closed or identity == self._skipped():
                return _Level(prefix, folder, closed, iter(()))
            with os.scandir(folder) as entries:
                # A folder sorts as `name/`, so that the paths of the whole walk come out in plain text order.
                names = sorted(filter(None, map(_listed, entries)))
        except OSError as error:
            failure = Failure(prefix or ".", "scan", f"cannot list the folder: {error.strerror or error}")
            return _Level(prefix, folder, closed, iter([failure]))
        taken = (name for name in names if name.endswith("/") or self._filter.takes(prefix + name))
        return _Level(prefix, folder, (*closed, identity), taken)

    def _skipped(self) -> Identity | None:
        """Looked up for each folder, as the output folder may be made while images are being listed."""
        try:
            return _identity(self._skip) if self._skip else None
        except OSError:
            return None  # not made yet


class _Level(NamedTuple):
    """A folder that is being walked. prefix: its path and a slash. closed: it, and what is above it or a link to it."""

    prefix: str
    folder: str
    closed: tuple[Identity, ...]
    names: Iterator[str | Failure]


def _listed(entry: os.DirEntry) -> str | None:
    """The name as the tables write it, `name/` for a folder, None for what is skipped."""
    if entry.name.startswith("."):
        return None
    try:
        if entry.is_dir():
            return f"{to_text(entry.name)}/"
    except OSError:
        pass  # a broken link: reading it fails with the reason
    return to_text(entry.name)


def _identity(folder: str | Path) -> Identity:
    status = os.stat(folder)  # noqa: PTH116 - as in _below
    return status.st_dev, status.st_ino


def _above(folder: str) -> tuple[Identity, ...]:
    """The folders that hold `folder` itself, wherever a link to it may be."""
    above = []
    for parent in Path(folder).resolve().parents:
        with suppress(OSError):  # one that this user may not enter, which no link can lead to
            above.append(_identity(parent))
    return tuple(above)


def _below(folder: str, name: str) -> str:
    return os.path.join(folder, to_name(name))  # noqa: PTH118 - called for each file, and Path is slow
