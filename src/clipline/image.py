"""The one preprocessing of images: file -> EXIF orientation -> RGB -> resize -> crop -> uint8 [S, S, 3].

The training cache, evaluation, parity checks and embedding all call this module, so that an image gives the same
pixels everywhere. It needs Pillow and numpy only. Mean and standard deviation are not applied here: they are inside
the model, so that queues and files hold uint8.
"""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from clipline.errors import CliplineError, KindError
from clipline.utils.rgb import DAMAGE, decode

# The limit of Pillow itself, above which a file counts as a decompression bomb. Panoramas of 20,000 x 8,900 pixels
# pass; as JPEG they take about 0.8 GB.
MAX_PIXELS = 2 * 89_478_485
# Images above LARGE pixels share a budget of DECODE_BUDGET pixels: one huge image per thread would fill the memory.
# Decoding takes 4 to 25 bytes per pixel, depending on the format: docs/reliability.md has a table.
LARGE, DECODE_BUDGET = 1 << 24, 2 * MAX_PIXELS
# The formats that are opened, whatever the file's name. Of Pillow's forty others, EPS runs Ghostscript on the file,
# some trust a length that the file states, and none is a format for photos.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
# Pillow still reads what it warns about (large images, odd metadata); a folder of photos would fill the screen.
warnings.filterwarnings("ignore", module=r"PIL\.")
Resize = Literal["shortest", "squash"]
Picture = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | np.ndarray | Image.Image
"""An image file's path or bytes, a binary file, an array uint8 [H, W, 3], or an image that Pillow has opened."""


class ImageError(CliplineError):
    """A file that cannot be used as an image; the message is the reason."""


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of one model.

    size: side S of the square output, in pixels.
    resize: `shortest` scales the short side to S and crops the centre; `squash` scales both sides to S.
    """

    size: int
    resize: Resize = "shortest"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image of any size -> uint8 [S, S, 3].

        Bicubic with antialiasing; the resized long side and the crop offset `(W - S) / 2` round half to even.
        """
        size = self.size
        if self.resize == "squash":
            return np.asarray(_resize(image, (size, size)))
        short = min(image.size)
        width, height = (round(side * size / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(_resize_middle(image, (width, height), (left, top), size))

    def read(self, source: Picture) -> tuple[np.ndarray, tuple[int, int]]:
        """-> (uint8 [S, S, 3], (width, height) of the upright original). Raises the errors of `open_rgb`."""
        with _opened(source) as image:
            return self(image), image.size


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize columns, then rows: in one call Pillow chooses the order by the shape, and its versions differ.

    Rows come first only where resizing columns would enlarge a thin image above LARGE, such as 1 x 100 million pixels.
    """
    columns_first = size[0] <= image.width or size[0] * image.height <= LARGE
    between = (size[0], image.height) if columns_first else (image.width, size[1])
    return image.resize(between, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC)


def _resize_middle(image: Image.Image, full: tuple[int, int], start: tuple[int, int], size: int) -> Image.Image:
    """Resize to `full` and crop `size` x `size` at `start`, without computing all of `full`.

    Only the region that the crop needs is resized, on the same grid: a 3:2 photo takes 0.6 of the time, and 65,535 x 1
    pixels at 224 do not take 10 GB. Pillow holds the region's borders as float32, so that one value in 5,000 rounds to
    its neighbour. `margin` keeps the filter (two pixels of the source or of the result, whichever are larger) inside
    the region.
    """
    spans = []
    for side, target, first in zip(image.size, full, start, strict=True):
        margin = int(np.ceil(2 * max(1.0, target / side))) + 1
        low, high = max(0, first - margin), min(target, first + size + margin)
        spans.append((low * side / target, high * side / target, high - low, first - low))
    (left, right, width, x), (top, bottom, height, y) = spans
    upper, lower = int(np.floor(top)), int(np.ceil(bottom))
    if (upper, lower) != (0, image.height):  # else it would copy the whole image
        image = image.crop((0, upper, image.width, lower))
    image = image.resize((width, image.height), Image.Resampling.BICUBIC, (left, 0, right, image.height))
    image = image.resize((width, height), Image.Resampling.BICUBIC, (0, top - upper, width, bottom - upper))
    return image.crop((x, y, x + size, y + size))


def open_rgb(source: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of an image, upright and in RGB (alpha over white).

    max_pixels: the most pixels an image may have. Raises ImageError where a file is missing, is no image of FORMATS, is
    cut short, or has more pixels; the last is checked before anything is decoded. Raises KindError for no Picture.
    """
    with _opened(source, max_pixels) as image:
        return image


def is_picture(value: Any) -> bool:
    """Whether the value is a Picture by its type; an array by its shape [H, W, C] and numbers of any type."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and value.ndim == 3
    return isinstance(value, Picture) or hasattr(value, "read")


def as_pictures(values: Any) -> list[Any]:
    """One Picture, or several in any iterable (an array [n, H, W, 3], a column of a data frame), as a list.

    Raises KindError where it is neither; what the iterable holds is not looked at.
    """
    if is_picture(values):
        return [values]
    try:
        return list(None if isinstance(values, Mapping) else values)
    except TypeError:
        raise _no_picture(values) from None


def _no_picture(value: Any) -> KindError:
    found = f"an array {value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
    return KindError(
        "an image is a path, a file's bytes, a binary file, a Pillow image or an array uint8 [H, W, 3], and not "
        f"{found}"
    )


def _filled(image: Image.Image) -> tuple[int, int]:
    """Width and height that decoding allocates: for a TIFF at least one tile, even where the image is smaller."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    tile = (tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0))
    return max(image.size, tile, key=math.prod)


class PixelBudget:
    """A number of pixels that threads may decode at the same time."""

    def __init__(self, pixels: int) -> None:
        self._left = pixels
        self._change = threading.Condition()

    @contextmanager
    def acquire(self, pixels: int) -> Iterator[None]:
        """Blocks until that many pixels of the decode budget are free; releases them at the end of the block."""
        with self._change:
            self._change.wait_for(lambda: pixels <= self._left)
            self._left -= pixels
        try:
            yield
        finally:
            with self._change:
                self._left += pixels
                self._change.notify_all()


_pixel_budget = PixelBudget(DECODE_BUDGET)


@contextmanager
def _opened(source: Picture, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The image of `open_rgb`, while its pixels are held; errors of the block become ImageError too."""
    start = b""
    try:
        with ExitStack() as stack:
            image = _in_memory(source)
            if image is None:
                file = stack.enter_context(_open_file(source))
                start = file.read(16)
                image = stack.enter_context(Image.open(file, formats=FORMATS))
            width, height = _filled(image)
            if width * height > max_pixels:
                raise ImageError(f"{width} x {height} pixels is over the limit of {max_pixels:,}")
            with _pixel_budget.acquire(width * height) if width * height > LARGE else nullcontext():
                yield decode(image)
    except CliplineError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_why_unknown(start)) from None
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except Image.DecompressionBombError as error:
        raise ImageError(str(error)) from None
    except MemoryError as error:
        raise ImageError("too little memory to decode it") from error
    except DAMAGE as error:
        raise ImageError(f"cannot decode: {error}" if str(error) else "cannot decode") from error


def _in_memory(source: Picture) -> Image.Image | None:
    """A Pillow image, or that of an array; None for a file. Raises KindError for an array of another type or shape."""
    if not isinstance(source, np.ndarray):
        return source if isinstance(source, Image.Image) else None
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise _no_picture(source)
    return Image.fromarray(source)


def _open_file(source: Picture) -> BinaryIO:
    """Raises KindError where it is no path, no bytes and no binary file."""
    if isinstance(source, str | os.PathLike):
        return Path(source).open("rb")
    if hasattr(source, "read"):
        if source.seekable():
            source.seek(0)
        source = source.read()
    if not isinstance(source, bytes | bytearray | memoryview):
        raise _no_picture(source)
    return io.BytesIO(source)


# The brands of HEIC's files (ISO/IEC 23008-12, annex B.4), which phones write whatever the name is.
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def _why_unknown(start: bytes) -> str:
    """Why Pillow does not read a file that begins with the bytes `start`."""
    if not start:
        return "empty file"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
        return "Pillow does not read HEIC: convert it to JPEG"
    return "not an image that Pillow can read"
