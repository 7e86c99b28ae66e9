"""Atomic writes of files and folders, a lock on a folder, and the user's cache folder.

A file or folder is written under a temporary name, flushed to disk, and renamed, so that its name never holds a part.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clipline.errors import CliplineError
from clipline.utils.remedies import why
from clipline.utils.user import ensure_name_and_home


@contextmanager
def atomic(path: Path, temporary_in: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block succeeds; after an error nothing of it is left.

    The temporary name starts with a dot, so that tools that read every file of a folder skip it, and contains the
    process id, so that two processes may write the same file. temporary_in: its folder, by default that of `path`.
    Raises OSError.
    """
    temporary = (temporary_in or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """As `atomic`, for a file that a user named: its folder is created. Raises CliplineError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            yield file
    except OSError as error:
        raise CliplineError(f"{path}: cannot be written: {why(error)}") from error


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `out` when the block succeeds, and is deleted after an error.

    Leftovers of a killed process are deleted first; where it was killed between the two renames, the old `out` is
    restored. Raises OSError, and leaves `out` as it was.
    """
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    if old.exists() and not out.exists():
        old.rename(out)
    for leftover in (partial, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                _sync(path)
        if out.exists():
            # Renamed, not deleted in place: a kill in between must not leave half of the old folder.
            out.rename(old)
        try:
            partial.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        sync_folder(out.parent)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut. Does nothing on Windows, which cannot open folders."""
    if os.name != "nt":
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Lock the existing folder `folder`. Raises CliplineError with the text `busy` where another process holds it.

    The folder itself is locked, so that no lock file is left behind. Windows and some network file systems cannot
    lock folders: there nothing is locked.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                raise CliplineError(f"{folder}: {busy}") from None
        yield
    finally:
        os.close(handle)


def user_cache() -> Path:
    """The path of clipline's folder in the user's cache; it need not exist."""
    ensure_name_and_home()
    usual = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(usual) / "clipline"
