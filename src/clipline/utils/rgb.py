"""An image that Pillow has opened -> its first frame, upright and in RGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageChops, TiffImagePlugin

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
# Tags of TIFF: how values are stored, and which of them are black and white.
_BITS, _FORMAT = TiffImagePlugin.BITSPERSAMPLE, TiffImagePlugin.SAMPLEFORMAT
_S_MIN_VALUE, _S_MAX_VALUE = 340, 341
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
    """Any Pillow mode -> RGB: grey of more than 8 bits is scaled to 8, palette and alpha are composited over white."""
    if image.mode.startswith("I") or image.mode == "F":
        black, white = _value_range(image)
        unsigned = _is_unsigned(image)
        return _in_strips(image, lambda strip: _grey(_values(strip, unsigned), black, white))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        return _in_strips(image, _over_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _value_range(image: Image.Image) -> tuple[float, float]:
    """(black, white): the values of a grey image of more than 8 bits that become 0 and 255.

    What the file names comes first: SMinSampleValue and SMaxSampleValue of a TIFF, or its 12 bits; in a PGM 65,535 is
    white. Else it is the first of 0..1, 0..255 and 0..65,535 that holds all values, if they reach a sixteenth of it; if
    they do not (12 bits in a file of 16, depths in metres, negative values), the lowest value is black, and the highest
    one white. A TIFF with WhiteIsZero swaps the two. Raises ValueError where no value is finite.
    """
    tags = _tags(image)
    low, high = (np.ravel(tags.get(tag, np.nan))[0] for tag in (_S_MIN_VALUE, _S_MAX_VALUE))
    if not -np.inf < low < high < np.inf:
        if tags.get(_BITS) == (12,):
            low, high = 0, 4095
        elif image.format == "PPM" and image.mode == "I":
            low, high = 0, 65535
        else:
            low, high = _range_by_values(image)
    return (high, low) if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else (low, high)


def _range_by_values(image: Image.Image) -> tuple[float, float]:
    low, high, unsigned = np.inf, -np.inf, _is_unsigned(image)
    for box in _strips(image):
        values = _values(image.crop(box), unsigned)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        raise ValueError("none of its values is a finite number")
    full = next((full for full in (1, 255, 65535) if low >= 0 and high <= full), None)
    if full and (high > full / 16 or low == high):
        return 0, full
    return (low, high) if low < high else (low - 1, low + 1)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file."""
    return getattr(image, "tag_v2", {})


def _is_unsigned(image: Image.Image) -> bool:
    """Whether 32-bit integers are unsigned: Pillow reads them as signed ones."""
    tags = _tags(image)
    return image.mode == "I" and tags.get(_BITS) == (32,) and tags.get(_FORMAT, (1,)) == (1,)


def _values(image: Image.Image, unsigned: bool) -> np.ndarray:
    values = np.asarray(image)
    return values.view(np.uint32) if unsigned else values


def _grey(values: np.ndarray, black: float, white: float) -> Image.Image:
    """Values [H, W] -> RGB. Pillow's own conversion clips at 255, which turns a 16-bit photo white."""
    scale = np.float32((white - black) / 255)
    scaled = np.nan_to_num((values.astype(np.float32) - np.float32(black)) / scale)
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)).convert("RGB")


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
