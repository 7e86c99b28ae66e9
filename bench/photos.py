"""As many photos as a benchmark wants, made from those of a folder: each a file of its own with a hash of its own."""

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
    """A folder with `count` JPEG files, copies of those below `folder`, again and again; made once, below `cache`.

    A few bytes behind the end of each image, which decoders pass over, make its hash its own: the pipeline embeds
    files with the same bytes once. Raises UsageError where there is no JPEG file.
    """
    found = [item for item in Folder(folder, include=JPEG) if not isinstance(item, Failure)]
    if not found:
        raise UsageError(f"{folder}: no JPEG files in it")
    names = "\n".join(f"{item.path} {item.stat()}" for item in found)
    out = cache / f"photos-{count}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"
    if not out.is_dir():
        with atomic_folder(out) as new:
            for number, item in enumerate(islice(cycle(found), count)):
                place = new / f"{number // PER_FOLDER:04d}"
                place.mkdir(exist_ok=True)
                (place / f"{number:06d}.jpg").write_bytes(item.read() + b"copy %d" % number)
    return out
