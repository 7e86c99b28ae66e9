"""One file -> pixels and facts, or the reason why not."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipline.embed.scan import Failure, Found
from clipline.image import ImageError, Preprocess

# A 16-bit RGB TIFF of the most pixels that image.py takes. Above it a file is not even read.
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Decoded:
    """An image ready for the model. pixels: uint8 [S, S, 3]; width and height: of the upright original."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str
    width: int
    height: int
    pixels: np.ndarray


def decode(found: Found, preprocess: Preprocess) -> Decoded | Failure:
    """Read, hash and decode one file; whatever is wrong with it becomes a Failure."""
    try:
        data, mtime_ns = _read(found.file)
    except OSError as error:
        return Failure(found.path, "read", error.strerror or str(error))
    try:
        pixels, (width, height) = preprocess.read(data)
    except ImageError as error:
        return Failure(found.path, "decode", _reason(found, data, error))
    except MemoryError:
        return Failure(found.path, "decode", "too little memory to decode it")
    digest = hashlib.sha256(data).hexdigest()
    return Decoded(found.path, len(data), mtime_ns, digest, width, height, pixels)


def _read(file: Path) -> tuple[bytes, int]:
    if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for ever
        raise OSError("not a regular file")
    with file.open("rb") as stream:
        facts = os.fstat(stream.fileno())
        if facts.st_size > MAX_BYTES:
            raise OSError(f"{facts.st_size:,} bytes is over the limit of {MAX_BYTES:,}")
        return stream.read(), facts.st_mtime_ns


def _reason(found: Found, data: bytes, error: ImageError) -> str:
    if not data:
        return "empty file"
    if found.path.lower().endswith((".heic", ".heif")):
        return "Pillow does not read HEIC: convert it to JPEG"
    return str(error)
