"""THE preprocessing: file -> EXIF orientation -> RGB -> resize -> crop -> uint8 [S, S, 3].

The training cache, evaluation, parity checks and embedding all call this module, so an image means the same
pixels everywhere. Pillow and numpy only. Mean and standard deviation are not applied here: they live inside
the model, so that what crosses every queue and file is uint8.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipline.errors import CliplineError

# Above this a file is taken for a decompression bomb: 20,000 x 8,900 panoramas still pass, in about 0.5 GB.
# It is where Pillow itself refuses.
MAX_PIXELS = 2 * 89_478_485
# What Pillow warns about (large images, odd metadata) it goes on to read; a folder of photos would fill the screen.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow's decoders raise all of these on damaged files (AVIF's a RuntimeError, say): to the caller all one.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)
Resize = Literal["shortest", "squash"]


class ImageError(CliplineError):
    """A file that cannot be used as an image; the message is the reason."""


@dataclass(frozen=True)
class Preprocess:
    """How a file becomes pixels.

    size: side S of the square output, in pixels.
    resize: `shortest` scales the short side to S and crops the centre; `squash` scales both sides to S.
    """

    size: int
    resize: Resize = "shortest"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image of any size -> uint8 [S, S, 3].

        Bicubic with antialias; the resized long side and the crop offset `(W - S) / 2` round half to even.
        """
        size = self.size
        if self.resize == "squash":
            return np.asarray(_resize(image, (size, size)))
        short = min(image.size)
        width, height = (round(side * size / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(_resize_middle(image, (width, height), (left, top), size))

    def read(self, source: str | os.PathLike | bytes) -> tuple[np.ndarray, tuple[int, int]]:
        """A path or a file's bytes -> (uint8 [S, S, 3], (width, height) of the upright original).

        Raises ImageError with the reason.
        """
        image = open_rgb(source)
        return self(image), image.size


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Columns, then rows. In one call Pillow picks the order by the shape, and versions pick differently."""
    image = image.resize((size[0], image.height), Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BICUBIC)


def _resize_middle(image: Image.Image, full: tuple[int, int], start: tuple[int, int], size: int) -> Image.Image:
    """What resizing to `full` and cropping `size` x `size` at `start` gives, without making all of `full`.

    Only the stretch that the crop needs is resized, on the same grid: a photo in 3:2 takes 0.6 of the time, and 65,535
    x 1 pixels at 224 take no 10 GB. Pillow keeps a stretch's ends as float32, so that one value in 5,000 rounds to its
    neighbour. `margin` keeps the filter (two pixels
    of the source or of the result, whichever are larger) from seeing the ends of the stretch.
    """
    spans = []
    for side, target, first in zip(image.size, full, start, strict=True):
        margin = int(np.ceil(2 * max(1.0, target / side))) + 1
        low, high = max(0, first - margin), min(target, first + size + margin)
        spans.append((low * side / target, high * side / target, high - low, first - low))
    (left, right, width, x), (top, bottom, height, y) = spans
    upper, lower = int(np.floor(top)), int(np.ceil(bottom))
    image = image.crop((0, upper, image.width, lower))
    image = image.resize((width, image.height), Image.Resampling.BICUBIC, (left, 0, right, image.height))
    image = image.resize((width, height), Image.Resampling.BICUBIC, (0, top - upper, width, bottom - upper))
    return image.crop((x, y, x + size, y + size))


def open_rgb(source: str | os.PathLike | bytes) -> Image.Image:
    """Decode the first frame of an image file, upright and in RGB (alpha over white).

    Raises ImageError where the file is missing, is no image, is cut short or claims an absurd size.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width} x {height} pixels is over the limit of {MAX_PIXELS:,}")
            ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise ImageError(str(error)) from None
    except DAMAGE as error:
        raise ImageError(f"cannot decode: {error}" if str(error) else "cannot decode") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB: 16-bit is scaled to 8, palette and alpha are laid over white."""
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own convert("RGB") clips these at 255 and turns a 16-bit photo white.
        scale = 1.0 if image.mode == "F" else 257.0
        grey = np.asarray(image).astype(np.float32) / scale
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
