"""Where embeddings go: never over something else, and over older ones only when they are complete."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipline.embed.manifest import ERRORS, MANIFEST, PARTS
from clipline.errors import CliplineError, UsageError

OURS = (MANIFEST, ERRORS, PARTS, f".{MANIFEST}.tmp", f".{ERRORS}.tmp", f".{PARTS}.tmp")


def check(out: Path, overwrite: bool) -> None:
    """Raise UsageError where `out` holds anything, or with `overwrite` anything but embeddings."""
    if not out.exists():
        if out.is_symlink():
            raise UsageError(f"{out}: a link that leads nowhere. Mend: remove it, or choose another --out")
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is a file. Mend: choose another --out")
    names = sorted(out.iterdir())
    strange = [path.name for path in names if not any(path.match(pattern) for pattern in OURS) or path.is_dir()]
    if strange:
        raise UsageError(
            f"{out}: holds `{strange[0]}`, which is no part of embeddings, and would be lost. "
            "Mend: choose another --out, or move it away"
        )
    if names and not overwrite:
        state = "already holds embeddings" if (out / MANIFEST).exists() else "holds an unfinished run"
        raise UsageError(f"{out}: {state}. Mend: choose another --out, or replace them with --overwrite")


@contextmanager
def destination(out: Path) -> Iterator[Path]:
    """The folder to write into, after `check`.

    A new or empty `out` is written into directly; after an error its whole parts stay. An `out` with
    embeddings keeps them until the block ends well: the new ones are made in a hidden folder beside it, then
    swapped in.
    Raises CliplineError where neither can be made.
    """
    out = out.resolve()
    try:
        replace = out.is_dir() and any(out.iterdir())
        if not replace:
            out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent)) if replace else out
    except OSError as error:
        raise CliplineError(
            f"{out}: cannot be written: {error.strerror}. Mend: choose another --out, or mend its permissions"
        ) from error
    try:
        yield folder
        if replace:
            _swap(folder, out)
    except BaseException:
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        elif not any(out.iterdir()):
            out.rmdir()
        raise


def _swap(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`; where that fails, `out` is as it was."""
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    new.chmod(out.stat().st_mode)  # mkdtemp lets nobody else in
    try:
        out.rename(old)
        try:
            new.rename(out)
        except OSError:
            old.rename(out)
            raise
    except OSError as error:
        raise CliplineError(
            f"{out}: cannot be replaced: {error.strerror}. It is as it was. Mend: choose another --out"
        ) from error
    shutil.rmtree(old)
