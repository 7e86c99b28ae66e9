"""Which images are for training, validation and test, and the check that none is in two of them.

The unit is the image, never the caption. Copies of one picture under several names count as one: a test image that is
trained on under another name is leaked all the same. Copies are recognised by their pixels at the model's input size,
so a file that was saved twice is found; a photo that was cropped or compressed again is not.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.resources import files

from clipline.config.dataset import ColumnSplit, HashSplit, OfficialSplit, Split
from clipline.data.captions import Caption
from clipline.errors import CliplineError, shorten

NAMES = ("train", "val", "test")
# An image that is in several splits stays in the first of these: the test must not be contaminated.
PRECEDENCE = ("test", "val", "train")
_SPELLINGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def official() -> dict[str, str]:
    """Flickr8k's official lists (Hodosh, Young and Hockenmaier 2013): {image: split} of 8,000 images.

    Flickr8k's other 91 images are in no list.
    """
    folder = files("clipline.data") / "flickr8k_splits"
    lists = {name: (folder / f"{name}.txt").read_text(encoding="utf-8").split() for name in NAMES}
    return {image: name for name, images in lists.items() for image in images}


def by_column(captions: Iterable[Caption]) -> dict[str, str]:
    """The split column of captions.csv: {image: split}, without the images whose cells are empty.

    Raises CliplineError where there is no such column, a value is unknown, or the rows of an image disagree.
    """
    first_row: dict[str, Caption] = {}
    assigned: dict[str, str] = {}
    for caption in captions:
        if caption.split is None:
            raise CliplineError(
                "split.kind is column, but captions.csv has no column `split`. Fix: name it as source.split_column"
            )
        value = _split(caption)
        if value is None:
            raise CliplineError(
                f"captions.csv: line {caption.line}: split '{shorten(caption.split)}' is unknown; "
                f"allowed: {', '.join(_SPELLINGS)}, or empty for none"
            )
        first = first_row.setdefault(caption.image, caption)
        if _split(first) != value:
            raise CliplineError(
                f"captions.csv: {shorten(caption.image)} is in two splits: "
                f"'{shorten(first.split)}' in line {first.line}, '{shorten(caption.split)}' in line {caption.line}"
            )
        if value:
            assigned[caption.image] = value
    return assigned


def _split(caption: Caption) -> str | None:
    """The split in a table's cell, "" for an empty cell; None where the cell is not the name of a split."""
    cell = caption.split.strip().lower()
    return _SPELLINGS.get(cell) if cell else ""


def assigned(split: Split, captions: Iterable[Caption]) -> dict[str, str] | None:
    """{image: split} by the official lists or the table; None where a hash of the images decides (`by_hash`)."""
    match split:
        case OfficialSplit():
            return official()
        case ColumnSplit():
            return by_column(captions)
        case HashSplit():
            return None


def by_hash(digests: Mapping[str, bytes], split: HashSplit) -> dict[str, str]:
    """Order images by SHA-256 of seed and name: the first are for test, the next for val, the rest for train.

    digests: {image: digest of its pixels}. Images that have copies all go to train: then no copy can leak, and none
    makes a retrieval test ambiguous. Raises CliplineError where nothing would be left for train.
    """
    copies = Counter(digests.values())
    order = sorted(digests, key=lambda name: hashlib.sha256(f"{split.seed}:{name}".encode()).digest())
    unique = [name for name in order if copies[digests[name]] == 1]
    test, val = (_number(share, len(order)) for share in (split.test, split.val))
    if test + val > len(unique) or test + val >= len(order):
        raise CliplineError(
            f"split: test {split.test:g} and val {split.val:g} ask for {test + val:,} of {len(order):,} "
            f"images, {len(unique):,} of which have no copy, and something must be left for train. "
            "Fix: smaller shares in the dataset's `split`, or more images"
        )
    chosen = dict.fromkeys(order, "train")
    chosen.update(dict.fromkeys(unique[:test], "test"))
    chosen.update(dict.fromkeys(unique[test : test + val], "val"))
    return chosen


def _number(share: float, images: int) -> int:
    return round(share * images) if share < 1 else int(share)


class Copies:
    """Finds copies among images that already have a split. The caller passes them in the order of `PRECEDENCE`.

    across: {image that is left out: the image of another split whose pixels it repeats}. within: the same for copies
    that stay, since they repeat an image of their own split.
    """

    def __init__(self) -> None:
        self.across: dict[str, str] = {}
        self.within: dict[str, str] = {}
        self._first: dict[bytes, tuple[str, str]] = {}

    def admit(self, image: str, split: str, digest: bytes) -> bool:
        """Whether `image`, whose pixels have this digest, may stay in `split`."""
        first, owner = self._first.setdefault(digest, (image, split))
        if first == image:
            return True
        (self.within if owner == split else self.across)[image] = first
        return owner == split


def prove_disjoint(rows: Iterable[tuple[str, str, bytes]]) -> int:
    """Check that no name and no pixels are in two splits, and that no split is empty.

    rows: (image, split, digest of its pixels), as they are written. Returns the number of different pictures.
    Raises CliplineError that names the image.
    """
    by_name: dict[str, str] = {}
    by_pixels: dict[bytes, tuple[str, str]] = {}
    for image, split, digest in rows:
        if image in by_name:
            raise CliplineError(f"{image} is in the data twice: in {by_name[image]} and {split}")
        by_name[image] = split
        other, owner = by_pixels.setdefault(digest, (image, split))
        if owner != split:
            raise CliplineError(f"{image} ({split}) and {other} ({owner}) are the same picture")
    counts = Counter(by_name.values())
    empty = [name for name in NAMES if not counts[name]]
    if empty:
        held = ", ".join(f"{name} {counts[name]:,}" for name in NAMES)
        raise CliplineError(
            f"split: no image is left for {' and '.join(empty)} ({held}). "
            "Fix: larger shares in the dataset's `split`, or more images"
        )
    return len(by_pixels)
