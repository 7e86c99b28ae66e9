"""The image files below a folder, in order, without holding the list of them.

By extension, not by content: a text file named .jpg is found, fails to decode and is listed in
errors.parquet, where leaving it out would hide it. Names that start with a dot are passed over, as by shells:
thumbnails, and the `._photo.jpg` that macOS leaves on other disks. Links are followed, unless into a folder
that holds them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from clipline.embed.item import Failure, FileItem
from clipline.embed.sources.patterns import Patterns, is_image
from clipline.embeddings.paths import to_name, to_text
from clipline.errors import UsageError

# Which folder it is, by whatever path: device and number.
Identity = tuple[int, int]


class Folder:
    """Every image file below `folder` in plain text order of `path`; folders that cannot be listed are Failures.

    skip: a folder inside to leave out, such as the output's. include, exclude: see `patterns`; an excluded folder is
    not even listed. Memory: one folder's names per level. Raises UsageError where there is no such folder.
    """

    def __init__(
        self, folder: Path, *, skip: Path | None = None, include: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
        self._folder = str(folder)
        self._skip = skip
        self._patterns = Patterns(include, exclude)

    @property
    def root(self) -> str:
        """The folder."""
        return self._folder

    def __iter__(self) -> Iterator[FileItem | Failure]:
        # A stack of our own: folders may lie deeper than Python's calls.
        walked = [self._level("", self._folder, ())]
        while walked:
            level = walked[-1]
            name = next(level.names, None)
            if name is None:
                walked.pop()
            elif isinstance(name, Failure):
                yield name
            elif not name.endswith("/"):
                yield FileItem(level.prefix + name, Path(_below(level.folder, name)))
            elif self._patterns.enters(level.prefix + name):
                walked.append(self._level(level.prefix + name, _below(level.folder, name[:-1]), level.closed))

    def _level(self, prefix: str, folder: str, closed: tuple[Identity, ...]) -> _Level:
        """The folder with the names in it; with none where it is `closed`, with a Failure where it cannot be listed."""
        try:
            identity = _identity(folder)
            if identity in closed or identity == self._skipped():
                return _Level(prefix, folder, closed, iter(()))
            with os.scandir(folder) as entries:
                # A folder sorts as `name/`, so that the paths of the whole walk come out in plain text order.
                names = sorted(filter(None, map(_listed, entries)))
        except OSError as error:
            failure = Failure(prefix or ".", "scan", f"cannot list the folder: {error.strerror or error}")
            return _Level(prefix, folder, closed, iter([failure]))
        chosen = (name for name in names if name.endswith("/") or self._patterns.takes(prefix + name))
        return _Level(prefix, folder, (*closed, identity), chosen)

    def _skipped(self) -> Identity | None:
        """Looked up for each folder: an output folder is often made while the images are being listed."""
        try:
            return _identity(self._skip) if self._skip else None
        except OSError:
            return None  # not made yet


class _Level(NamedTuple):
    """A folder that is being walked. prefix: its path with a slash behind. closed: it and those above."""

    prefix: str
    folder: str
    closed: tuple[Identity, ...]
    names: Iterator[str | Failure]


def _listed(entry: os.DirEntry) -> str | None:
    """The name as the tables write it, `name/` for a folder, None for what is passed over."""
    if entry.name.startswith("."):
        return None
    try:
        if entry.is_dir():
            return f"{to_text(entry.name)}/"
    except OSError:
        pass  # a link that leads nowhere: reading it says why
    return to_text(entry.name) if is_image(entry.name) else None


def _identity(folder: str | Path) -> Identity:
    facts = os.stat(folder)  # noqa: PTH116 - as in _below
    return facts.st_dev, facts.st_ino


def _below(folder: str, name: str) -> str:
    return os.path.join(folder, to_name(name))  # noqa: PTH118 - called for each file, and Path is slow
