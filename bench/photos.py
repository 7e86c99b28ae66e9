"""Any number of photos for a benchmark, made from those of a folder: files with different hashes."""

from __future__ import annotations

import hashlib
from itertools import cycle, islice
from pathlib import Path

from clipline.embed.item import Failure
from clipline.embed.sources.folder import Folder
from clipline.errors import UsageError
from clipline.utils.files import atomic_folder

JPEG = ("*.jpg", "*.jpeg", "*.JPG", "*.JPEG")
PER_FOLDER = 1000


def repeat(folder: Path, count: int, cache: Path) -> Path:
    """A folder with `count` JPEG files, repeated copies of those below `folder`; made once, below `cache`.

    A few bytes after the end of each image, which decoders ignore, make its hash different: the pipeline embeds files
    with the same bytes once. Raises UsageError where there is no JPEG file.
    """
    items = [item for item in Folder(folder, include=JPEG) if not isinstance(item, Failure)]
    if not items:
        raise UsageError(f"{folder}: no JPEG files in it")
    names = "\n".join(f"{item.path} {item.stat()}" for item in items)
    out = cache / f"photos-{count}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"
    if not out.is_dir():
        with atomic_folder(out) as new:
            for number, item in enumerate(islice(cycle(items), count)):
                subfolder = new / f"{number // PER_FOLDER:04d}"
                subfolder.mkdir(exist_ok=True)
                (subfolder / f"{number:06d}.jpg").write_bytes(item.read() + b"copy %d" % number)
    return out
