"""Where embeddings go: never among other things, and in the place of older ones only when they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from clipline.embeddings.manifest import ERRORS, MANIFEST, PARTS, TEMPORARY
from clipline.errors import CliplineError, UsageError
from clipline.utils.files import atomic_folder, locked

OURS = (MANIFEST, ERRORS, PARTS, *TEMPORARY)
BUSY = "another process is embedding into it. Fix: wait for that one, or choose another --out"


def check(out: Path) -> None:
    """Raise UsageError where `out` is a file, cannot be read, or holds anything but embeddings."""
    try:
        if not out.exists():
            if out.is_symlink():
                raise UsageError(f"{out}: a link that leads nowhere. Fix: remove it, or choose another --out")
            return
        if not out.is_dir():
            raise UsageError(f"{out}: is a file. Fix: choose another --out")
        foreign = [each for each in out.iterdir() if each.is_dir() or not any(each.match(name) for name in OURS)]
    except OSError as error:
        raise UsageError(
            f"{out}: cannot be read: {error.strerror or error}. Fix: choose another --out, or fix its permissions"
        ) from None
    if foreign:
        raise UsageError(
            f"{out}: holds `{min(foreign).name}`, which is no part of embeddings. "
            "Fix: choose another --out, or move it away"
        )


@contextmanager
def destination(out: Path, overwrite: bool) -> Iterator[Path]:
    """The folder to write into, after `check`: `out` itself, where what is written stays after an error.

    overwrite: a hidden folder beside it, which takes its place when the block ends well. Either way `out` is locked.
    Raises CliplineError where neither can be made, or another process holds the lock.
    """
    out, replace = out.resolve(), False
    try:
        replace = overwrite and out.is_dir() and any(out.iterdir())
        place = nullcontext() if replace else _new_folder(out)
        target = atomic_folder(out) if replace else nullcontext(out)
        with place, locked(out, BUSY), target as folder:
            yield folder
    except OSError as error:
        raise CliplineError(
            f"{out}: cannot be {'replaced' if replace else 'written'}: {error.strerror or error}. "
            f"{'It is as it was. ' if replace else ''}Fix: choose another --out, or fix its permissions"
        ) from error


@contextmanager
def _new_folder(out: Path) -> Iterator[None]:
    ours = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        # Not another process's, which may just have begun.
        if ours and not any(out.iterdir()):
            out.rmdir()
        raise
