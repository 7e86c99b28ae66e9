"""Which files are images, and which folders hold a machine's copies of them, by their names alone.

Datasets and `clipline embed` share these lists. What an image really is, image.py tells by its bytes.
"""

from __future__ import annotations

import os
import re

# Of the formats that image.py opens every suffix that Pillow knows, and HEIC, which is an error with the reason.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".heic", ".heif"),
    )
)
# Thumbnails, previews and deleted files, which would win searches: Synology, QNAP, NetApp, Windows, Linux, macOS,
# iTunes, Nextcloud, Lightroom; Photos, iPhoto and Aperture keep the photos themselves in `originals` or `Masters`.
_MACHINE = re.compile(
    r"(?:^|/)(?:@eaDir|#recycle|#snapshot|@Recycle|@Recently-Snapshot|~snapshot|\$RECYCLE\.BIN|RECYCLER|"
    r"System Volume Information|lost\+found|__MACOSX|iPod Photo Cache|appdata_oc\w+|[^/]*\.lrdata|"
    r"[^/]*\.(?:photoslibrary|photolibrary|migratedphotolibrary|aplibrary)/(?!originals/|masters/)[^/]+)(?=/)",
    re.IGNORECASE,
)


def suffix(name: str) -> str:
    """The suffix in lower case, with its dot; empty where there is none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - millions of names, and Path is slow


def is_image(name: str) -> bool:
    """By suffix, in any case, not by content: a text file named .jpg must fail to decode, not be hidden."""
    return suffix(name) in SUFFIXES


def is_hidden(path: str) -> bool:
    """Whether the file or a folder above it starts with a dot, as `.thumbnails/` and macOS's `._photo.jpg` do."""
    return path.startswith(".") or "/." in path


def machine_folder(path: str, root: str = "") -> str | None:
    """The first folder in `path` that a machine fills, such as `photos/@eaDir`; None if there is none.

    path: with `/`; a folder ends with it. root: the name of the folder that `path` starts from, which may be a photo
    library, and was asked for, whatever it is.
    """
    text = f"{root}/{path}" if root else path
    start = len(text) - len(path)
    return next((text[start : match.end()] for match in _MACHINE.finditer(text) if match.end() > start), None)
