"""Images that a table holds itself, written as files: each picture once, under its own name where it has one."""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from clipline.utils.image_names import SUFFIXES, is_image

_STEM_BYTES = 150  # a file system's limit for the whole name is 255


class ImageFiles:
    """Writes image files into one folder; the same bytes are written once.

    folder: where to. taken: names that are not given. names: the files written. repeated: how many images were not
    written again.
    """

    def __init__(self, folder: Path, taken: Iterable[str] = ()) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.repeated = 0
        self._by_hash: dict[bytes, str] = {}
        self._taken = {name.casefold() for name in taken}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, data: bytes, path: str, index: int) -> str:
        """Write the image of row `index`, which the source calls `path`; return its file name."""
        digest = hashlib.sha256(data).digest()
        if digest in self._by_hash:
            self.repeated += 1
            return self._by_hash[digest]
        name = self._by_hash[digest] = self._name(path, data, index)
        part = self.folder / ".part"
        part.write_bytes(data)
        part.replace(self.folder / name)
        self.names.add(name)
        return name

    def _name(self, path: str, data: bytes, index: int) -> str:
        """The original file name if there is one, made unique by the row's number; else the row's number."""
        original = PurePosixPath(re.sub(r"[\x00-\x1f\\]", "_", unicodedata.normalize("NFC", path)))
        suffix = original.suffix if is_image(original.name) else _suffix(data)
        stem = original.stem.lstrip(".").encode()[:_STEM_BYTES].decode(errors="ignore")
        name = f"{stem}{suffix}" if stem else f"{index:08d}{suffix}"
        if name.casefold() in self._taken:
            name = f"{stem}_{index:08d}{suffix}"
        self._taken.add(name.casefold())
        return name


def _suffix(data: bytes) -> str:
    # Only these formats, since Pillow opens some others with external programs.
    formats = [name for suffix, name in Image.registered_extensions().items() if suffix in SUFFIXES]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            suffix = f".{(image.format or 'bin').lower()}"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ".bin"
    return {".jpeg": ".jpg", ".mpo": ".jpg"}.get(suffix, suffix)
