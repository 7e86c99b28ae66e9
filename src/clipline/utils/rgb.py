"""An image that Pillow has opened -> its first frame, upright and in RGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image, ImageChops

# What Pillow's decoders raise on damaged files (AVIF's a RuntimeError, for example).
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
    AttributeError,
    MemoryError,
)
_STRIP = 1 << 22  # pixels that are converted at a time
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: Image.Image) -> Image.Image:
    """Decode, convert to RGB, and rotate as EXIF says. Raises what Pillow's decoders raise: DAMAGE.

    Pillow's exif_transpose also rewrites the EXIF, and fails on damaged ones.
    """
    image = _loaded(image)
    rgb = to_rgb(image)
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except DAMAGE:
        return rgb  # only the metadata is damaged
    return rgb if turn is None else rgb.transpose(turn)


def _loaded(image: Image.Image) -> Image.Image:
    """The image with its pixels decoded; a JPEG file that lacks only its end mark counts as complete."""
    try:
        image.load()
    except OSError:
        complete = _without_end_mark(image) if image.format == "JPEG" else None
        if complete is None:
            raise
        return complete
    return image


def _ending(noise: bytes, first: int) -> bytes:
    """`noise`, then JPEG's eight restart marks twice, from number `first` on, with noise after each."""
    return noise * 8 + b"".join(bytes([0xFF, 0xD0 + (first + mark) % 8]) + noise * 8 for mark in range(16))


_ENDINGS = (b"", _ending(b"\x5a\xa5", 0), _ending(b"\xfe\xed\xdb", 4))


def _without_end_mark(image: Image.Image) -> Image.Image | None:
    """The pixels of a JPEG file that was cut before its end mark; None where some of them are lost.

    libjpeg makes up what is lost from whatever follows. So the data are decoded with several endings: where these
    make no difference, all pixels are there.
    """
    image.fp.seek(0)
    data = image.fp.read().removesuffix(b"\xff")
    decoded = [Image.open(io.BytesIO(data + ending + b"\xff\xd9"), formats=("JPEG",)) for ending in _ENDINGS]
    differ = any(ImageChops.difference(decoded[0], other).getbbox() for other in decoded[1:])
    return None if differ else decoded[0]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB: 16 bits are scaled to 8, palette and alpha are composited over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _in_strips(image, _grey)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        return _in_strips(image, _over_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """16 or 32 bits per pixel -> 8. Pillow's convert clips at 255, which turns a 16-bit photo white."""
    scale = 1.0 if image.mode == "F" else 257.0
    values = np.nan_to_num(np.asarray(image).astype(np.float32) / scale)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _in_strips(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Apply `change` to a few rows at a time: on all rows its steps would take five times the memory of the image."""
    out = Image.new("RGB", image.size)
    for box in _strips(image):
        out.paste(change(image.crop(box)), box)
    return out


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """The boxes of a few rows each that make up the image."""
    rows = max(1, _STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(image.height, top + rows)
