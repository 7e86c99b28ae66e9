"""Find the image files below a folder, sorted, without holding the list of them.

By extension, not by content: a text file named .jpg is found, fails to decode and is listed in
errors.parquet, where leaving it out would hide it. Names that start with a dot are passed over, as by shells:
thumbnails, and the `._photo.jpg` that macOS leaves on other disks. Links are followed, unless into a folder
that holds them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipline.embed.paths import to_text

EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"])


@dataclass(frozen=True)
class Found:
    """An image file. path: its name for the tables, relative to the folder. file: what the system opens."""

    path: str
    file: Path


@dataclass(frozen=True)
class Failure:
    """Why one input has no embedding. stage: scan, read, decode or infer."""

    path: str
    stage: str
    reason: str


def scan(folder: Path, skip: Path | None = None) -> Iterator[Found | Failure]:
    """Every image file below `folder` in the order of `path`; folders that cannot be listed are Failures.

    skip: a folder inside `folder` to leave out, such as the output's. Memory: one folder's names per level.
    """
    yield from _walk(str(folder), "", (), str(skip.resolve()) if skip else None)


def _walk(folder: str, prefix: str, above: tuple[str, ...], skip: str | None) -> Iterator[Found | Failure]:
    real = os.path.realpath(folder)
    if real in above or real == skip:
        return
    try:
        with os.scandir(folder) as entries:
            named = [(to_text(entry.name), entry) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        yield Failure(prefix or ".", "scan", f"cannot list the folder: {error.strerror}")
        return
    # A folder sorts as `name/`, so that the paths of the whole walk come out in plain text order.
    children = sorted((f"{name}/" if _is_folder(entry) else name, entry.path) for name, entry in named)
    for name, path in children:
        if name.endswith("/"):
            yield from _walk(path, f"{prefix}{name}", (*above, real), skip)
        elif Path(name).suffix.lower() in EXTENSIONS:
            yield Found(f"{prefix}{name}", Path(path))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads nowhere: reading it says why
