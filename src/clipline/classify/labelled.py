"""Labelled images to measure on: a tree with a folder for each class, or parquet files.

tree/cat/1.jpg   tree/dog/2.jpg               a folder for each class
tree/train/cat/1.jpg   tree/test/cat/2.jpg    the same in splits
cifar10/plain_text/test-00000-of-00001.parquet   images and labels in columns, as on the Hugging Face hub: see `parquet`
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipline.classify.parquet import LabelledParquet
from clipline.embed.item import Failure, Item, Source
from clipline.embed.sources.folder import Folder
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError
from clipline.utils.image_names import is_hidden, is_image, machine_folder

# What folders and files of a split are called, as regular expressions; without --split the first one is taken.
SPLITS = {"test": "test", "val": "val(id(ation)?)?", "train": "train(ing)?"}


@dataclass(frozen=True)
class Labelled:
    """Images with their classes. classes: in order. source: its paths start with `class/`."""

    classes: list[str]
    source: Source

    def class_of(self, path: str) -> int:
        """The class of an image of `source`, an index into `classes`."""
        return self.classes.index(path.partition("/")[0])

    @property
    def labels(self) -> list[str]:
        """What to call the classes in words: `golden_retriever` is a golden retriever."""
        return [name.replace("_", " ") for name in self.classes]


def open_labelled(path: Path, split: str | None = None) -> Labelled:
    """The labelled images in a folder or a parquet file: those of `split`; None takes test, else val, else train.

    A folder with image files is a tree; the parquet files anywhere below a folder without them hold its images.
    Raises UsageError where there is nothing labelled, no such split, or no permission to read, and CliplineError where
    a parquet file is damaged.
    """
    try:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if path.is_file():
            return _parquet(path.parent, [path], split)
        files = [] if any(Folder(path)) else sorted(path.rglob("*.parquet"))
        return _parquet(path, files, split) if files else _tree(path, split)
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None


def _parquet(root: Path, files: list[Path], split: str | None) -> Labelled:
    """The names of files or folders tell their splits; where any does, files that tell none are passed over."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        for name, words in SPLITS.items():
            if re.search(f"(?<![a-z]){words}(?![a-z])", str(file.relative_to(root)).lower()):
                splits.setdefault(name, []).append(file)
    source = LabelledParquet(root, _pick_split(root, splits, split) if splits or split else files)
    return Labelled(source.classes, source)


def _tree(folder: Path, split: str | None) -> Labelled:
    below = _folders(folder)
    while len(below) == 1 and not any(is_image(entry.name) for entry in below[0].iterdir()):
        # Archives are often unpacked into a folder of the same name.
        folder, below = below[0], _folders(below[0])
    splits = {name: sub for sub in below for name, words in SPLITS.items() if re.fullmatch(words, sub.name.lower())}
    if len(splits) == len(below) > 0:
        folder = _pick_split(folder, splits, split)
        below = _folders(folder)
    elif split:
        raise UsageError(f"{folder}: has classes, not splits. Fix: leave out --split")
    if len(below) < 2:
        raise UsageError(
            f"{folder}: {len(below)} folder{'s' * (len(below) != 1)} in it. Fix: give one with a folder of images for "
            "each class, at least two, or parquet files with images and labels"
        )
    return Labelled([to_text(folder.name) for folder in below], _ImagesInFolders(folder))


def _pick_split(path: Path, splits: dict[str, Any], split: str | None) -> Any:
    """What belongs to `split`; None takes the first of SPLITS that is there."""
    chosen = split or next(name for name in SPLITS if name in splits)
    if chosen not in splits:
        raise UsageError(
            f"{path}: no split {chosen!r}; it has: {', '.join(sorted(splits)) or 'none. Fix: leave out --split'}"
        )
    return splits[chosen]


def _folders(folder: Path) -> list[Path]:
    """The folders in `folder`, without hidden ones, machines' own, and links that lead back to it or above it."""
    below = (entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    below = (entry for entry in below if not machine_folder(f"{entry.name}/", folder.name))
    return sorted(entry for entry in below if not folder.resolve().is_relative_to(entry.resolve()))


class _ImagesInFolders:
    """The images in a folder's folders; those beside them have no class."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.root = Folder(folder), str(folder)

    def __iter__(self) -> Iterator[Item | Failure]:
        return (item for item in self._folder if "/" in item.path or isinstance(item, Failure))
