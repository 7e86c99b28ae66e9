"""The images of a dataset on their way into data/prepared: listed, packed and split, each one accounted for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from clipline.config.dataset import HashSplit
from clipline.data import splits
from clipline.data.pack import Packed, pack
from clipline.errors import CliplineError, first_few, shorten
from clipline.image import Preprocess

SHOWN = 5  # names in an error message


class Images:
    """What became of each image. After `pack`, an image is either in `rows` or left out for one reason.

    names: the images to pack, in order. rows: those that were packed. split: {image: split} of those. distinct: how
    many of them differ in their pixels. Left out are `without_captions` (no kept caption names the file), `in_no_split`
    (neither the lists nor the table assign one), `broken` ({image: why it cannot be read}) and `copies.across`.

    folder: holds the image files. captioned: the images that a caption names. assigned: {image: split}, or None where
    a hash decides. Raises CliplineError where the folder cannot be read.
    """

    def __init__(self, folder: Path, captioned: set[str], assigned: Mapping[str, str] | None) -> None:
        if not folder.is_dir():
            raise CliplineError(f"{folder}: no such folder. Fix: run the download stage first")
        try:
            files = {path.name for path in folder.iterdir() if path.is_file()}
        except OSError as error:
            raise CliplineError(f"{folder}: cannot be read: {error.strerror}") from None
        wanted = captioned if assigned is None else captioned & assigned.keys()
        self.folder, self.assigned = folder, assigned
        self.without_captions = sorted(files - captioned)
        self.in_no_split = sorted(captioned - wanted)
        self.broken = dict.fromkeys(sorted(wanted - files), "no such file")
        self.names = sorted(wanted & files, key=self._order)
        self.copies = splits.Copies()
        self.rows: list[Packed] = []
        self.split: dict[str, str] = {}
        self.distinct = 0

    def _order(self, name: str) -> tuple[int, str]:
        # Test and validation images come first: of two copies the first one stays.
        return (0 if self.assigned is None else splits.PRECEDENCE.index(self.assigned[name])), name

    def pack(self, preprocess: Preprocess, path: Path, max_broken: float, rule: splits.Split) -> None:
        """Write the pixels to `path`, uint8 [N, S, S, 3], and assign splits where a hash decides them.

        max_broken: the largest fraction of the images that may be broken. rule: the dataset's split settings.
        Raises CliplineError where more are broken, the disk is too small, a split is empty, or an image is in two
        splits.
        """
        self._check_space(preprocess.size, path.parent)
        total = len(self.names) + len(self.broken)
        self.rows, broken = pack(self.folder, self.names, preprocess, path, self._admit)
        self.broken |= {image.name: image.reason for image in broken}
        self._check_broken(total, max_broken)
        if isinstance(rule, HashSplit):
            self.split = splits.by_hash({image.name: image.digest for image in self.rows}, rule)
            for image in self.rows:
                self.copies.admit(image.name, self.split[image.name], image.digest)
        else:
            self.split = {image.name: self.assigned[image.name] for image in self.rows}
        rows = ((image.name, self.split[image.name], image.digest) for image in self.rows)
        self.distinct = splits.prove_disjoint(rows)

    def _admit(self, name: str, digest: bytes) -> bool:
        return self.assigned is None or self.copies.admit(name, self.assigned[name], digest)

    def _check_space(self, size: int, folder: Path) -> None:
        needed, free = len(self.names) * size * size * 3, shutil.disk_usage(folder).free
        if needed > free:
            raise CliplineError(
                f"{len(self.names):,} images of {size} x {size} pixels need {needed / 1e9:.1f} GB, but "
                f"{folder} has {free / 1e9:.1f} GB free. Fix: free some space, or a smaller inputs.image_size"
            )

    def _check_broken(self, total: int, max_broken: float) -> None:
        if len(self.broken) > max_broken * total:
            first = [f"  {shorten(name)}: {reason}" for name, reason in list(self.broken.items())[:SHOWN]]
            raise CliplineError(
                f"{self.folder}: {len(self.broken):,} of {total:,} images are missing or unreadable, more "
                f"than preprocess.max_broken ({max_broken:g}) in params.yaml allows; the first:",
                *first,
            )

    def why_without(self, name: str) -> str:
        """Why the captions of an image that is not in `rows` are dropped."""
        if name in self.broken:
            return "image is missing or unreadable"
        if name in self.copies.across:
            return "image is a copy of one in another split"
        return "image is in no split"


def absent_from(listed: Mapping[str, str], captioned: set[str], max_absent: float) -> list[str]:
    """Images of Flickr8k's official lists that the data lack. Raises CliplineError above the fraction `max_absent`."""
    absent = sorted(listed.keys() - captioned)
    if len(absent) > max_absent * len(listed):
        raise CliplineError(
            f"{len(absent):,} of the {len(listed):,} images in Flickr8k's official lists have no caption "
            f"here, such as {first_few(absent)}. Fix: complete the dataset; if it is another one, "
            "split: {kind: hash} in its configs/data file"
        )
    return absent
