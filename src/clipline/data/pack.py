"""Decode every image once, on all cores, into one uint8 array that training maps into memory.

Threads are enough: Pillow releases the interpreter lock while it decodes and resizes. The array is written row by row,
not through a memory map: a broken image then takes no row, and a full disk raises an error, where a mapped file would
kill the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from clipline.image import ImageError, Preprocess
from clipline.utils import cores
from clipline.utils.progress import Bar
from clipline.utils.threads import map_ordered


@dataclass(frozen=True, slots=True)
class Packed:
    """An image in the array.

    width, height: of the upright original, in pixels. digest: SHA-256 of its pixels in the array.
    """

    name: str
    width: int
    height: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """An image that cannot be used, and why."""

    name: str
    reason: str


def pack(
    folder: Path,
    names: Sequence[str],
    preprocess: Preprocess,
    path: Path,
    admit: Callable[[str, bytes], bool],
) -> tuple[list[Packed], list[Broken]]:
    """Write the images `names` below `folder` to `path`, uint8 [N, S, S, 3], in the given order.

    Rows are exactly what `preprocess.read` returns. Images that cannot be decoded are left out, and so are those for
    which `admit(name, digest of its pixels)` is false.
    Returns (the N images in the array, the broken ones). Raises OSError where `path` cannot be written.
    """
    packed: list[Packed] = []
    broken: list[Broken] = []
    with PixelWriter(path, preprocess.size) as writer, Bar("pack images", len(names), "images") as bar:
        for image, pixels in decode(folder, names, preprocess, cores.available()):
            if isinstance(image, Broken):
                broken.append(image)
            elif admit(image.name, image.digest):
                writer.append(pixels)
                packed.append(image)
            bar.advance()
    return packed, broken


def decode(
    folder: Path, names: Iterable[str], preprocess: Preprocess, workers: int
) -> Iterator[tuple[Packed, np.ndarray] | tuple[Broken, None]]:
    """Yield each of `names` below `folder` with its pixels, uint8 [S, S, 3], in order, decoded by `workers` threads.

    At most 4 images per thread wait in memory.
    """

    def one(name: str) -> tuple[Packed, np.ndarray] | tuple[Broken, None]:
        try:
            pixels, (width, height) = preprocess.read(folder / name)
        except ImageError as error:
            return Broken(name, str(error)), None
        pixels = np.ascontiguousarray(pixels)
        return Packed(name, width, height, hashlib.sha256(pixels).digest()), pixels

    return map_ordered(one, names, threads=workers, ahead=4 * workers)


class PixelWriter:
    """Writes an .npy file of shape [N, S, S, 3] where N becomes known at the end. Use as a context manager.

    path: the file to write. size: S, in pixels.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.rows = 0
        self._size = size
        self._file = path.open("wb")
        self._header()
        self._start = self._file.tell()

    def _header(self) -> None:
        shape = (self.rows, self._size, self._size, 3)
        # numpy leaves room for the first axis to grow, so a header with another N has the same length.
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, pixels: np.ndarray) -> None:
        """Write one more row, uint8 [S, S, 3]. Raises ValueError for another shape."""
        if pixels.shape != (self._size, self._size, 3):
            raise ValueError(f"shape {pixels.shape} in a file of {self._size} x {self._size} x 3 rows")
        self._file.write(np.ascontiguousarray(pixels, dtype=np.uint8))
        self.rows += 1

    def __enter__(self) -> PixelWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._header()
                if self._file.tell() != self._start:
                    raise AssertionError("numpy's header changed its length with N")
