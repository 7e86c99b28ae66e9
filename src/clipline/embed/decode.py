"""One item -> its bytes -> its pixels, or a Failure with the reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from clipline.embed.item import Failure, Item, Stat
from clipline.image import ImageError, Preprocess


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that was read. stat: its date is from before the read, so the next run sees a change during it."""

    path: str
    stat: Stat
    sha256: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image ready for the model. pixels: uint8 [S, S, 3]. width, height: of the upright original."""

    path: str
    stat: Stat
    sha256: str
    width: int
    height: int
    pixels: np.ndarray


def load(item: Item, stat: Stat) -> Loaded:
    """Read and hash one file. stat: from before the read. Raises OSError."""
    data = item.read()
    return Loaded(item.path, Stat(len(data), stat.mtime_ns), hashlib.sha256(data).hexdigest(), data)


def decode(loaded: Loaded, preprocess: Preprocess) -> Decoded | Failure:
    """Decode and resize one file; a file that cannot be decoded becomes a Failure."""
    try:
        pixels, (width, height) = preprocess.read(loaded.data)
    except ImageError as error:
        return Failure(loaded.path, "decode", str(error), loaded.sha256)
    return Decoded(loaded.path, loaded.stat, loaded.sha256, width, height, pixels)
