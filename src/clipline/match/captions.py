"""The images and captions to ask about: a prepared split, or a CSV of captions."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipline.errors import UsageError, first_line

PREPARED = "captions.parquet"


@dataclass(frozen=True)
class Captioned:
    """n images with m captions. folder: of the files `names`. caption_image: int64 [m], each caption's image, 0..n-1.

    where: what this is, in words.
    """

    folder: Path
    names: list[str]
    captions: list[str]
    caption_image: np.ndarray
    where: str


def read(place: Path, split: str | None, root: Path | None) -> Captioned:
    """The captions of `split` (None: test, and all of a CSV without splits) and where their images are.

    place: data/prepared, or a CSV with the columns image and caption, and maybe split (data/raw/captions.csv, Kaggle's
    captions.txt). root: the folder of the images; None takes data/raw/images for data/prepared, and for a CSV
    `images` or `Images` beside it, else its own folder. Raises UsageError where any of it is missing.
    """
    if place.is_dir():
        rows, folder = _prepared(place), place.parent / "raw" / "images"
    elif place.is_file():
        rows = _csv(place)
        folder = next((each for each in (place.parent / "images", place.parent / "Images") if each.is_dir()), None)
        folder = folder or place.parent
    else:
        raise UsageError(f"{place}: no such file or folder")
    if not rows:
        raise UsageError(f"{place}: no captions in it")
    where = str(place)
    if rows[0][2] is None:
        if split:
            raise UsageError(f"{place}: has no column `split`. Fix: leave out --split to take all of it")
    else:
        split = split or "test"
        names = sorted({each for _, _, each in rows})
        rows = [row for row in rows if row[2] == split]
        where = f"the {split} split of {place}"
        if not rows:
            raise UsageError(f"{place}: no split {split!r}; it has: {', '.join(names)}")
    folder = root or folder
    index = {name: number for number, name in enumerate(dict.fromkeys(image for image, _, _ in rows))}
    if not (folder / rows[0][0]).is_file():
        raise UsageError(f"{folder / rows[0][0]}: no such file. Fix: name the folder of the images with --root")
    owners = np.array([index[image] for image, _, _ in rows], np.int64)
    return Captioned(folder, list(index), [caption for _, caption, _ in rows], owners, where)


# (image, caption, split or None)
_Rows = list[tuple[str, str, str | None]]


def _prepared(folder: Path) -> _Rows:
    path = folder / PREPARED
    try:
        # Not read_table, which imports pandas where it is installed: half a second.
        with pq.ParquetFile(path) as file:
            columns = file.read(["image", "caption", "split"]).to_pydict()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file. Fix: name what the preprocess stage writes, or a CSV") from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({first_line(error)})") from None
    return list(zip(columns["image"], columns["caption"], columns["split"], strict=True))


def _csv(path: Path) -> _Rows:
    rows: _Rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"image", "caption"} - set(reader.fieldnames or ()):
                raise UsageError(f"{path}: no column {' or '.join(sorted(missing))} in its first line")
            for row in reader:
                if row["image"] and row["caption"] and row["caption"].strip():
                    if "split" in row and row["split"] is None:
                        raise UsageError(f"{path}: line {reader.line_num} has no `split`. Fix: complete it")
                    rows.append((row["image"], row["caption"].strip(), row.get("split")))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV in UTF-8 ({error})") from None
    return rows
