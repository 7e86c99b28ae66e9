"""Write a finished picture to disk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from clipline.atomic import output


def save(picture: Image.Image, path: Path) -> None:
    """Write `picture` as the kind that `path` ends in, whole or not at all. Raises CliplineError."""
    with output(path) as file:
        picture.save(file, format=Image.registered_extensions()[path.suffix.lower()], quality=92)
