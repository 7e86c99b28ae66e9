"""Which image is for training, validation or test, and the proof that none is in two of them.

The unit is the image, never the caption. Copies of one picture under several names count as one: a test image
that was trained on under another name would be leaked all the same. Copies are found by their pixels at the
model's input size, so a file saved twice is caught, a photo cropped or compressed anew is not.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.resources import files

from clipline.config.dataset import ColumnSplit, HashSplit, OfficialSplit, Split
from clipline.data.captions import Caption
from clipline.errors import CliplineError

NAMES = ("train", "val", "test")
# Whoever comes first keeps an image that is also in another split: evaluation must not be contaminated.
PRECEDENCE = ("test", "val", "train")
_SPELLINGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def official() -> dict[str, str]:
    """Flickr8k's own lists (Hodosh, Young and Hockenmaier 2013): 8,000 image names -> train, val or test.

    Its 91 other images are in no list.
    """
    folder = files("clipline.data") / "flickr8k_splits"
    lists = {name: (folder / f"{name}.txt").read_text(encoding="utf-8").split() for name in NAMES}
    return {image: name for name, images in lists.items() for image in images}


def by_column(captions: Iterable[Caption]) -> dict[str, str]:
    """The split column of captions.csv: image -> split, without the images whose cells are empty.

    Raises CliplineError where there is no such column, a value is unknown, or an image's rows disagree.
    """
    found: dict[str, Caption] = {}
    assigned: dict[str, str] = {}
    for caption in captions:
        if caption.split is None:
            raise CliplineError(
                "split.kind is column, but captions.csv has no column `split`. Fix: name it as source.split_column"
            )
        value = _split(caption)
        if value is None:
            raise CliplineError(
                f"captions.csv: line {caption.line}: split {caption.split!r} is unknown; "
                f"allowed: {', '.join(_SPELLINGS)}, or empty for none"
            )
        first = found.setdefault(caption.image, caption)
        if _split(first) != value:
            raise CliplineError(
                f"captions.csv: {caption.image} is in two splits: "
                f"{first.split!r} in line {first.line}, {caption.split!r} in line {caption.line}"
            )
        if value:
            assigned[caption.image] = value
    return assigned


def _split(caption: Caption) -> str | None:
    """The split that the table says, empty for none; None where it says what is none."""
    said = caption.split.strip().lower()
    return _SPELLINGS.get(said) if said else ""


def known(split: Split, captions: Iterable[Caption]) -> dict[str, str] | None:
    """image -> split as lists or the table say, or None where the images themselves decide (`by_hash`)."""
    match split:
        case OfficialSplit():
            return official()
        case ColumnSplit():
            return by_column(captions)
        case HashSplit():
            return None


def by_hash(digests: Mapping[str, bytes], split: HashSplit) -> dict[str, str]:
    """Images ordered by SHA-256 of seed and name: the first to test, the next to val, the rest to train.

    digests: image name -> digest of its pixels. Images that have copies go to train, all of them: no copy can
    leak then, and none makes a retrieval test ambiguous.

    Raises CliplineError where a share is no number of images, or nothing would be left for train.
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
    """Watches the pixels of images that already have a split; `PRECEDENCE` order is the caller's duty.

    across: images left out -> the image of another split whose pixels they repeat. within: copies that stay,
    since they repeat an image of their own split.
    """

    def __init__(self) -> None:
        self.across: dict[str, str] = {}
        self.within: dict[str, str] = {}
        self._first: dict[bytes, tuple[str, str]] = {}

    def admit(self, image: str, split: str, digest: bytes) -> bool:
        """Whether `image` may stay in `split`."""
        first, owner = self._first.setdefault(digest, (image, split))
        if first == image:
            return True
        (self.within if owner == split else self.across)[image] = first
        return owner == split


def prove_disjoint(rows: Iterable[tuple[str, str, bytes]]) -> int:
    """Check rows (image, split, digest of its pixels), as they are written: no name and no pixels are in two
    splits, and no split is empty. Returns how many different pictures there are.

    Raises CliplineError that names the offender.
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
