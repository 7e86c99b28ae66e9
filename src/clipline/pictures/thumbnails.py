"""Small JPEG images in memory, and data URIs for pages that consist of one file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from clipline.errors import CliplineError
from clipline.image import ImageError, open_rgb

SIDE = 220  # pixels of a thumbnail's long side: sharp on a phone's screen, 10 kB


def of_png(path: Path) -> str:
    """The data URI of a PNG file. Raises CliplineError where it is missing."""
    try:
        return _uri(path.read_bytes(), "png")
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: dvc repro evaluate") from None


def of_image(path: Path) -> str:
    """The data URI of a thumbnail of an image file. Raises CliplineError where it cannot be read."""
    try:
        return _uri(jpeg(open_rgb(path), SIDE), "jpeg")
    except ImageError as error:
        raise CliplineError(f"{path}: {error}") from error


def of_pixels(pixels: np.ndarray) -> str:
    """The data URI of a thumbnail of uint8 [H, W, 3]."""
    return _uri(jpeg(Image.fromarray(pixels), SIDE), "jpeg")


def jpeg(image: Image.Image, side: int | None = None, quality: int = 82) -> bytes:
    """Encode an RGB image as JPEG, its long side at most `side` pixels; `image` itself is shrunk."""
    if side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
