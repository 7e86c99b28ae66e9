"""Write a finished picture to disk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from clipline.atomic import atomic
from clipline.errors import CliplineError


def save(picture: Image.Image, path: Path) -> None:
    """Write `picture` as the kind that `path` ends in, whole or not at all. Raises CliplineError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            picture.save(file, format=Image.registered_extensions()[path.suffix.lower()], quality=92)
    except OSError as error:
        raise CliplineError(f"{path}: cannot write the picture: {error.strerror or error}") from error
