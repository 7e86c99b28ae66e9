"""Labelled images in parquet files: the encoded images in one column and their classes in another.

This is how the Hugging Face hub keeps image datasets. Images are bytes, or a struct with the field `bytes`. Labels are
strings, or integers whose names are in the file's metadata, where the library `datasets` writes its ClassLabel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipline.embed.item import CellItem, Failure
from clipline.embeddings.paths import to_text
from clipline.errors import CliplineError, UsageError, first_few, first_line, shorten

IMAGE_COLUMNS = ("image", "img")
IMAGE_TYPE = re.compile(r"(struct<(.*, )?bytes: )?(large_)?binary\b")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "coarse_label")  # the first one that a file has is taken
TEXT_TYPE = re.compile(r"(dictionary<values=)?(large_)?string\b")
ROWS = 64  # decoded at once
BUFFER = 1 << 20  # bytes of a column read at once: a row group may hold a whole dataset


class LabelledParquet:
    """The images in parquet files below `root`, as an `embed.item.Source`; rows without image or class are Failures.

    classes: their names, with `_` for a slash. Memory: ROWS images and a page of each column. Raises UsageError where
    a file has no images, no classes, or not those of the others; a walk raises CliplineError at a damaged file.
    """

    def __init__(self, root: Path, files: list[Path]) -> None:
        self.root, self._files = str(root), files
        layouts = {_layout(file) for file in files}
        if len(layouts) > 1:
            raise UsageError(f"{root}: its parquet files differ in columns or classes. Fix: name files of one dataset")
        self._image, self._label, names = layouts.pop()
        labels = names or sorted({text for file in files for (text,) in _read(file, self._label) if text is not None})
        self._classes = {index if names else text: text.replace("/", "_") for index, text in enumerate(labels)}
        self.classes = list(self._classes.values())

    def __len__(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self._files)

    def __iter__(self) -> Iterator[CellItem | Failure]:
        for file in self._files:
            name = to_text(str(file.relative_to(self.root)))
            for row, (image, label) in enumerate(_read(file, self._image, self._label)):
                data = image["bytes"] if isinstance(image, dict) else image
                path = f"{self._classes.get(label, 'unlabelled')}/{name}/{row:05d}"
                if label not in self._classes:
                    yield Failure(path, "scan", f"the label {shorten(label)} is none of the classes")
                elif data is None:
                    yield Failure(path, "scan", "the row holds no image")
                else:
                    yield CellItem(path, data)


def _layout(file: Path) -> tuple[str, str, tuple[str, ...] | None]:
    """The columns of images and labels, and the names of integer labels. Raises UsageError."""
    try:
        schema = pq.read_schema(file)
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = {name: tuple(feature["names"]) for name, feature in features.items() if "names" in feature}
    except (pa.ArrowException, OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{file}: not a parquet file that can be read: {first_line(error)}") from None
    types = {field.name: str(field.type) for field in schema}
    image = next((name for name in IMAGE_COLUMNS if IMAGE_TYPE.match(types.get(name, ""))), None)
    label = next((name for name in (*LABEL_COLUMNS, *names) if name in types), None)
    columns = f"{file}: its columns are {first_few([f'`{name}` ({kind[:40]})' for name, kind in types.items()], 20)}"
    for kind, column in (("image", image), ("label", label)):
        if column is None:
            raise UsageError(f"{columns}; none holds {kind}s. Fix: name the column of {kind}s `{kind}`")
    if label not in names and not TEXT_TYPE.match(types[label]):
        raise UsageError(f"{columns}; `{label}` has no names. Fix: write strings, or ClassLabel with `datasets`")
    return image, label, names.get(label)


def _read(file: Path, *columns: str) -> Iterator[tuple]:
    """The values of `columns`, row by row. Raises CliplineError."""
    try:
        with pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True) as parquet:
            for batch in parquet.iter_batches(ROWS, columns=list(columns), use_threads=False):
                yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CliplineError(f"{file}: damaged: {first_line(error)}. Fix: download it again") from None
