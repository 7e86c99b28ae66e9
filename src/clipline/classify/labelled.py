"""Labelled images to measure on: a tree with a folder for each class, or CIFAR-10 as it is published.

TREE/cat/1.jpg   TREE/dog/2.jpg             a folder per class
TREE/train/cat/1.jpg   TREE/test/cat/2.jpg  the same in splits, as Kaggle's and fast.ai's copies of CIFAR-10 are
cifar-10-binary.tar.gz                      see `cifar`
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipline.classify import cifar
from clipline.embed.item import Failure, Item, Source
from clipline.embed.sources.folder import Folder
from clipline.embed.sources.patterns import is_image
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError

SPLITS = {"test": ("test",), "val": ("val", "valid", "validation"), "train": ("train", "training")}


@dataclass(frozen=True)
class Labelled:
    """Images with their classes. classes: in order. source: whose paths start with `class/`."""

    classes: list[str]
    source: Source

    def class_of(self, path: str) -> int:
        """The class of an image of `source`, an index into `classes`."""
        return self.classes.index(path.partition("/")[0])

    @property
    def labels(self) -> list[str]:
        """What to call the classes in words: `golden_retriever` is a golden retriever."""
        return [name.replace("_", " ") for name in self.classes]


def open_labelled(place: Path, split: str | None = None) -> Labelled:
    """The labelled images in `place`: those of `split` where it has splits; None takes test, else val, else train.

    Raises UsageError where there is nothing labelled, no such split, or no right to read, and CliplineError where
    CIFAR-10 is damaged.
    """
    try:
        if not place.exists():
            raise UsageError(f"{place}: no such file or folder")
        batches = place if place.is_file() else cifar.find(place)
        if batches:
            return Labelled(list(cifar.CLASSES), cifar.Cifar(batches, split or "test"))
        return _tree(place, split)
    except OSError as error:
        raise UsageError(f"{error.filename or place}: cannot be read: {error.strerror or error}") from None


def _tree(place: Path, split: str | None) -> Labelled:
    below = _folders(place)
    while len(below) == 1 and not any(is_image(entry.name) for entry in below[0].iterdir()):
        # Archives are often unpacked into a folder of the same name.
        place, below = below[0], _folders(below[0])
    splits = {name: folder for folder in below for name, names in SPLITS.items() if folder.name.lower() in names}
    if splits and len(splits) == len(below):
        chosen = split or next(name for name in SPLITS if name in splits)
        if chosen not in splits:
            raise UsageError(f"{place}: no split {chosen!r}; it has: {', '.join(splits)}")
        place = splits[chosen]
        below = _folders(place)
    elif split:
        raise UsageError(f"{place}: has classes, not splits. Fix: leave out --split")
    if len(below) < 2:
        raise UsageError(
            f"{place}: {len(below)} folder{'s' * (len(below) != 1)} in it. Fix: give one with a folder of images for "
            "each class, at least two"
        )
    return Labelled([to_text(folder.name) for folder in below], _InClasses(place))


def _folders(place: Path) -> list[Path]:
    return sorted(entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class _InClasses:
    """The images in a folder's folders; those beside them have no class."""

    def __init__(self, place: Path) -> None:
        self._folder, self.root = Folder(place), str(place)

    def __iter__(self) -> Iterator[Item | Failure]:
        return (item for item in self._folder if "/" in item.path or isinstance(item, Failure))
