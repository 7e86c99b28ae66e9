"""Write a finished picture to disk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from clipline.atomic import output
from clipline.errors import UsageError

# Pixels of a side: WebP's format and the JPEG library hold no more.
LONGEST = {"WEBP": 16_383, "JPEG": 65_500}


def save(picture: Image.Image, path: Path) -> None:
    """Write `picture` as the kind that `path` ends in, whole or not at all.

    Raises UsageError where it is too large for that kind, and CliplineError where it cannot be written.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    if max(picture.size) > LONGEST.get(kind, max(picture.size)):
        width, height = picture.size
        raise UsageError(
            f"{path}: a {kind} has at most {LONGEST[kind]:,} pixels a side, and the picture is {width:,} x {height:,}. "
            "Mend: let the name end in .png, or show fewer images"
        )
    with output(path) as file:
        picture.save(file, format=kind, quality=92)
