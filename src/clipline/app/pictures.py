"""Images for the browser: thumbnails, made on demand and cached, and originals as they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from clipline.app.library import Edition, GoneError
from clipline.image import FORMATS, ImageError, open_rgb
from clipline.pictures.thumbnails import jpeg
from clipline.utils import cores
from clipline.utils.rgb import DAMAGE, decode

SIDE = 480  # pixels of a thumbnail's long side: sharp where a phone shows it across its width
CACHE_BYTES = 96 * 2**20  # of thumbnails: about 3,000
# Formats that browsers show, by the content of a file, not its name; others are sent as JPEG.
SHOWN = {
    "JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp", "BMP": "image/bmp",
    "AVIF": "image/avif",
}  # fmt: skip


class Thumbnails:
    """A cache of JPEG thumbnails by (edition, row): least recently used ones are dropped. Safe for threads."""

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._room = cache_bytes
        self._lock = threading.Lock()
        # A 12-megapixel photo takes 36 MB while it is decoded: one for each core at once, not for each request.
        self._decoding = threading.BoundedSemaphore(cores.available())

    def get(self, edition: Edition, row: int) -> bytes:
        """The thumbnail of a row. Raises GoneError where its file is gone, or cannot be read any more."""
        file, key = edition.file(row), (edition.name, row)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            with self._decoding:
                made = jpeg(_small(file), SIDE)
        except ImageError:
            raise GoneError("cannot be read any more") from None
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._room -= len(made)
            while self._room < 0:
                self._room += len(self._kept.popitem(last=False)[1])
        return made


def original(file: Path) -> tuple[str, bytes | None]:
    """(media type, bytes to send) of an image file; None for the bytes means the file as it is.

    Raises GoneError where it cannot be read any more.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.format in SHOWN:
                return SHOWN[image.format], None
        return "image/jpeg", jpeg(open_rgb(file), quality=92)
    except (ImageError, Image.DecompressionBombError, *DAMAGE):
        raise GoneError("cannot be read any more") from None


def _small(file: Path) -> Image.Image:
    """An image, upright and in RGB, at least SIDE pixels wide and high where the original is. Raises ImageError.

    A JPEG is decoded at the scale that a thumbnail needs: a fifth of the time for a large photo.
    """
    try:
        with Image.open(file, formats=("JPEG",)) as image:
            image.draft("RGB", (SIDE, SIDE))
            return decode(image)
    except (Image.DecompressionBombError, *DAMAGE):
        return open_rgb(file)  # another format, or damage that open_rgb tolerates
