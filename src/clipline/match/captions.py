"""The images and captions to ask about: a prepared split, or a CSV of captions."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipline.errors import UsageError, first_line

PREPARED = "captions.parquet"


@dataclass(frozen=True)
class Captioned:
    """n images with m captions. folder: of the files `names`. caption_image: int64 [m], the image of each caption.

    where: what this is, for messages.
    """

    folder: Path
    names: list[str]
    captions: list[str]
    caption_image: np.ndarray
    where: str


def read(path: Path, split: str | None, root: Path | None) -> Captioned:
    """The captions of `split` and the names of their images. split: None is test, or all of a CSV without splits.

    path: data/prepared, or a CSV with the columns image and caption, and maybe split (data/raw/captions.csv, Kaggle's
    captions.txt). root: the folder of the images; None takes data/raw/images for data/prepared, and for a CSV
    `images` or `Images` beside it, else its own folder. Raises UsageError where any of it is missing.
    """
    if path.is_dir():
        captions, folder = _prepared(path), path.parent / "raw" / "images"
    elif path.is_file():
        captions = _csv(path)
        beside = (path.parent / "images", path.parent / "Images")
        folder = next((folder for folder in beside if folder.is_dir()), path.parent)
    else:
        raise UsageError(f"{path}: no such file or folder")
    if not captions:
        raise UsageError(f"{path}: no captions in it")
    where = str(path)
    if captions[0].split is None:
        if split:
            raise UsageError(f"{path}: has no column `split`. Fix: leave out --split to take all of it")
    else:
        split = split or "test"
        names = sorted({caption.split for caption in captions})
        captions = [caption for caption in captions if caption.split == split]
        where = f"the {split} split of {path}"
        if not captions:
            raise UsageError(f"{path}: no split {split!r}; it has: {', '.join(names)}")
    folder = root or folder
    if not (folder / captions[0].image).is_file():
        raise UsageError(f"{folder / captions[0].image}: no such file. Fix: name the folder of the images with --root")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(caption.image for caption in captions))}
    caption_image = np.array([numbers[caption.image] for caption in captions], np.int64)
    return Captioned(folder, list(numbers), [caption.text for caption in captions], caption_image, where)


class _Caption(NamedTuple):
    """split: None where the file has no column for it."""

    image: str
    text: str
    split: str | None


def _prepared(folder: Path) -> list[_Caption]:
    path = folder / PREPARED
    try:
        # Not read_table, which imports pandas where it is installed: half a second.
        with pq.ParquetFile(path) as file:
            columns = file.read(["image", "caption", "split"]).to_pydict()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file. Fix: name what the preprocess stage writes, or a CSV") from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({first_line(error)})") from None
    return list(map(_Caption, columns["image"], columns["caption"], columns["split"]))


def _csv(path: Path) -> list[_Caption]:
    captions = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"image", "caption"} - set(reader.fieldnames or ()):
                raise UsageError(f"{path}: no column {' or '.join(sorted(missing))} in its first line")
            for row in reader:
                if row["image"] and row["caption"] and row["caption"].strip():
                    if "split" in row and row["split"] is None:
                        raise UsageError(f"{path}: line {reader.line_num} has no `split`. Fix: complete it")
                    captions.append(_Caption(row["image"], row["caption"].strip(), row.get("split")))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV in UTF-8 ({error})") from None
    return captions
