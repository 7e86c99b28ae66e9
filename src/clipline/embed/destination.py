"""The output folder: it must hold nothing but embeddings, and older ones are replaced only by complete ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from clipline.embeddings.manifest import DATA, ERRORS, MANIFEST, PARTS, TEMPORARY
from clipline.errors import CliplineError, UsageError
from clipline.utils.files import atomic_folder, locked
from clipline.utils.remedies import why

ALLOWED = (MANIFEST, ERRORS, PARTS, *TEMPORARY)
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
        data = out / DATA
        own = [path for path in out.iterdir() if path != data or not path.is_dir()]
        foreign = [path for path in own if path.is_dir() or not any(path.match(name) for name in ALLOWED)]
        foreign += [path for path in data.glob("*") if path.is_dir() or not path.match(PARTS)]
    except OSError as error:
        raise UsageError(f"{out}: cannot be read: {why(error)}") from None
    if foreign:
        raise UsageError(
            f"{out}: holds `{min(foreign).relative_to(out)}`, which is no part of embeddings. "
            "Fix: choose another --out, or move it away"
        )


@contextmanager
def destination(out: Path, overwrite: bool) -> Iterator[Path]:
    """Lock `out`, which passed `check`, and yield the folder to write into.

    That is `out` itself, which keeps what is written if the block raises; with `overwrite`, and embeddings to replace,
    a hidden folder beside it that replaces `out` when the block ends without an error. Raises CliplineError where it
    cannot be made, or another process holds the lock.
    """
    out, replace = out.resolve(), False
    try:
        replace = overwrite and out.is_dir() and any(out.iterdir())
        made = nullcontext() if replace else _new_folder(out)
        target = atomic_folder(out) if replace else nullcontext(out)
        with made, locked(out, BUSY), target as folder:
            yield folder
    except OSError as error:
        raise CliplineError(
            f"{out}: cannot be {'replaced' if replace else 'written'}: {why(error)}"
            f"{'; it is as it was' if replace else ''}"
        ) from error


@contextmanager
def _new_folder(out: Path) -> Iterator[None]:
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        # Another process may just have begun to write into it.
        if is_new and not any(out.iterdir()):
            out.rmdir()
        raise
