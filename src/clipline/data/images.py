"""The images of a dataset on their way into the cache: found, packed, split, each one accounted for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from clipline.config.dataset import HashSplit
from clipline.data import splits
from clipline.data.pack import Packed, pack
from clipline.errors import CliplineError
from clipline.image import Preprocess

SHOWN = 5  # names in an error message


class Images:
    """What became of each image; after `pack`, one is either in rows or under one reason.

    names: to be packed, in order. rows and split: those packed, and the split of each; distinct: how many of
    them are different pictures. Left out are without_captions (files that no kept caption names), in_no_split
    (neither lists nor table put them in one), broken (image -> why it cannot be read) and copies.across.
    """

    def __init__(self, folder: Path, captioned: set[str], known: Mapping[str, str] | None) -> None:
        """captioned: images that a caption names. known: image -> split, or None where a hash decides."""
        if not folder.is_dir():
            raise CliplineError(f"{folder}: no such folder. Fix: run the download stage first")
        try:
            files = {path.name for path in folder.iterdir() if path.is_file()}
        except OSError as error:
            raise CliplineError(f"{folder}: cannot be read: {error.strerror}") from None
        placed = captioned if known is None else captioned & known.keys()
        self.folder, self.known = folder, known
        self.without_captions = sorted(files - captioned)
        self.in_no_split = sorted(captioned - placed)
        self.broken = dict.fromkeys(sorted(placed - files), "no such file")
        self.names = sorted(placed & files, key=self._order)
        self.copies = splits.Copies()
        self.rows: list[Packed] = []
        self.split: dict[str, str] = {}
        self.distinct = 0

    def _order(self, name: str) -> tuple[int, str]:
        # Evaluation first: of two copies the one that comes first stays.
        return (0 if self.known is None else splits.PRECEDENCE.index(self.known[name])), name

    def pack(self, preprocess: Preprocess, path: Path, max_broken: float, rule: splits.Split) -> None:
        """Write `path`, uint8 [N, S, S, 3], and decide what a hash decides.

        Raises CliplineError where too many are broken, the disk is too small, a split is empty, or an image
        is in two splits.
        """
        self._check_room(preprocess.size, path.parent)
        total = len(self.names) + len(self.broken)
        self.rows, broken = pack(self.folder, self.names, preprocess, path, self._admit)
        self.broken |= {image.name: image.reason for image in broken}
        self._check_broken(total, max_broken)
        if isinstance(rule, HashSplit):
            self.split = splits.by_hash({image.name: image.digest for image in self.rows}, rule)
            for image in self.rows:
                self.copies.admit(image.name, self.split[image.name], image.digest)
        else:
            self.split = {image.name: self.known[image.name] for image in self.rows}
        rows = ((image.name, self.split[image.name], image.digest) for image in self.rows)
        self.distinct = splits.prove_disjoint(rows)

    def _admit(self, name: str, digest: bytes) -> bool:
        return self.known is None or self.copies.admit(name, self.known[name], digest)

    def _check_room(self, size: int, folder: Path) -> None:
        need, free = len(self.names) * size * size * 3, shutil.disk_usage(folder).free
        if need > free:
            raise CliplineError(
                f"{len(self.names):,} images of {size} x {size} pixels need {need / 1e9:.1f} GB, but "
                f"{folder} has {free / 1e9:.1f} GB free. Fix: free some room, or a smaller inputs.image_size"
            )

    def _check_broken(self, total: int, max_broken: float) -> None:
        if len(self.broken) > max_broken * total:
            first = "\n".join(f"  {name}: {reason}" for name, reason in list(self.broken.items())[:SHOWN])
            raise CliplineError(
                f"{self.folder}: {len(self.broken):,} of {total:,} images are missing or unreadable, more "
                f"than preprocess.max_broken ({max_broken:g}) in params.yaml allows; the first:\n{first}"
            )

    def why_without(self, name: str) -> str:
        """The reason for which captions of an image outside rows are dropped."""
        if name in self.broken:
            return "image is missing or unreadable"
        if name in self.copies.across:
            return "image is a copy of one in another split"
        return "image is in no split"


def absent_from(listed: Mapping[str, str], captioned: set[str], max_absent: float) -> list[str]:
    """Images of the official lists that the data lack. Raises CliplineError above the fraction max_absent."""
    absent = sorted(listed.keys() - captioned)
    if len(absent) > max_absent * len(listed):
        raise CliplineError(
            f"{len(absent):,} of the {len(listed):,} images in Flickr8k's official lists have no caption "
            f"here, such as {', '.join(absent[:SHOWN])}. Fix: complete the dataset; if it is another one, "
            "split: {kind: hash} in its configs/data file"
        )
    return absent
