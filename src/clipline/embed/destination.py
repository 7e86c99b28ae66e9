"""Where embeddings go: never over something else, and over older ones only when they are complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipline.atomic import atomic_folder
from clipline.embed.manifest import ERRORS, MANIFEST, PARTS
from clipline.errors import CliplineError, UsageError

OURS = (MANIFEST, ERRORS, PARTS, f".{MANIFEST}.*.tmp", f".{ERRORS}.*.tmp", f".{PARTS}.*.tmp")


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
    out, replace = out.resolve(), False
    try:
        replace = out.is_dir() and any(out.iterdir())
        with atomic_folder(out) if replace else _new_folder(out) as folder:
            yield folder
    except OSError as error:
        raise CliplineError(
            f"{out}: cannot be {'replaced' if replace else 'written'}: {error.strerror or error}. "
            f"{'It is as it was. ' if replace else ''}Mend: choose another --out, or mend its permissions"
        ) from error


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield out
    except BaseException:
        if not any(out.iterdir()):
            out.rmdir()
        raise
