"""CIFAR-10 as it is published: its binary and its python version, unpacked or as the archive.

    cifar-10-binary.tar.gz   cifar-10-batches-bin/   data_batch_1.bin ... data_batch_5.bin test_batch.bin
    cifar-10-python.tar.gz   cifar-10-batches-py/    data_batch_1 ... data_batch_5 test_batch

The python version is pickled, and unpickling may run any code that someone put there. It is never unpickled: the two
things wanted are looked up in the bytes, the list of labels and the one long string of pixels.
Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipline.embed.item import Stat
from clipline.errors import CliplineError, UsageError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {"test": ["test_batch"], "train": [f"data_batch_{number}" for number in range(1, 6)]}
NAMES = {f"{name}{ending}" for names in SPLITS.values() for name in names for ending in ("", ".bin")}
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
SIDE = 32
PIXELS = 3 * SIDE * SIDE  # the red, the green and the blue plane
RECORD = 1 + PIXELS  # of the binary version: a byte for the class before them
MOST = 50_000 * RECORD  # bytes of a file that is read into memory; a batch has 10,000 images


def find(place: Path) -> Path | None:
    """The folder with CIFAR-10's batches, `place` or one below it; None where there is none."""
    found = (place / folder for folder in FOLDERS)
    return next((folder for folder in found if any((folder / name).is_file() for name in NAMES)), None)


class Cifar:
    """The images of a folder, an archive or one batch, as an `embed.item.Source`. Paths are `class/batch/number`.

    split: test or train. Raises UsageError where `place` holds nothing of it, CliplineError where it is damaged.
    """

    def __init__(self, place: Path, split: str) -> None:
        if split not in SPLITS:
            raise UsageError(f"{place}: CIFAR-10 has no split {split!r}; it has: {', '.join(SPLITS)}")
        self.root = str(place)
        names = {f"{name}{ending}" for name in SPLITS[split] for ending in ("", ".bin")}
        if place.is_dir():
            files = {name: (place / name).read_bytes() for name in names if _is_batch(place / name)}
        elif place.name in NAMES:
            files = {place.name: place.read_bytes()} if _is_batch(place) else {}
        else:
            files = _in_archive(place, names)
        if not files:
            raise UsageError(f"{place}: none of {', '.join(sorted(names))} in it, of {MOST:,} bytes at most")
        self._batches = {name: _records(place, name, files[name]) for name in sorted(files)}

    def __iter__(self) -> Iterator[_Image]:
        for name, records in self._batches.items():
            for number, record in enumerate(records):
                yield _Image(f"{CLASSES[record[0]]}/{name}/{number:05d}", record)


def _is_batch(file: Path) -> bool:
    return file.is_file() and file.stat().st_size <= MOST


def _in_archive(place: Path, names: set[str]) -> dict[str, bytes]:
    """The named members of a tar archive, wherever they stand in it; nothing is unpacked."""
    found = {}
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and member.isreg() and member.size <= MOST:
                    found[name] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{place}: not a labelled folder, nor an archive of CIFAR-10 ({error})") from None
    return found


def _records(place: Path, name: str, data: bytes) -> np.ndarray:
    """uint8 [n, RECORD] of a file of either version. Raises CliplineError."""
    try:
        records = _binary(data) if name.endswith(".bin") else _python(data)
    except (ValueError, IndexError):
        records = np.empty((0, RECORD), np.uint8)
    if not len(records) or records[:, 0].max() >= len(CLASSES):
        raise CliplineError(f"{place}: {name} is not a batch of CIFAR-10, or cut short. Fix: get it again")
    return records


def _binary(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(-1, RECORD)


def _python(data: bytes) -> np.ndarray:
    """The batch in a pickle of protocol 2 by Python 2, whose strings stand in it byte for byte."""
    labels = _labels(data, data.index(b"U\x06labels") + 8)
    size = len(labels) * PIXELS
    start = data.index(b"T" + struct.pack("<I", size)) + 5  # a string of that length
    pixels = np.frombuffer(data, np.uint8, size, start).reshape(-1, PIXELS)
    return np.concatenate([np.frombuffer(labels, np.uint8)[:, None], pixels], axis=1)


def _labels(data: bytes, at: int) -> bytes:
    """The list of small integers that begins at `at`: `K` before each, marks, and memo numbers after `q` or `r`."""
    found = bytearray()
    while data[at] in b"](eKqr":
        if data[at] == ord("K"):
            found.append(data[at + 1])
        at += {ord("K"): 2, ord("q"): 2, ord("r"): 5}.get(data[at], 1)
    return bytes(found)


@dataclass(frozen=True, slots=True)
class _Image:
    """path: with the class. record: uint8 [RECORD]."""

    path: str
    record: np.ndarray

    def stat(self) -> Stat:
        """Of the record."""
        return Stat(RECORD, 0)

    def read(self) -> bytes:
        """As a PPM file: planes become pixels."""
        pixels = self.record[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        return f"P6 {SIDE} {SIDE} 255\n".encode() + pixels.tobytes()
