"""`kind: hf`: images and captions of a Hugging Face dataset, as files with their original bytes where it has them.

Rows that repeat an image byte for byte become one image with several captions: as two images they could end up in two
splits.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from clipline.config.dataset import Hub, HubSource
from clipline.data.sources.hub_load import open_hub
from clipline.data.sources.raw import IMAGE_SUFFIXES, CaptionRow, Collected, prune, reconcile
from clipline.errors import CliplineError, UsageError
from clipline.utils.cells import texts
from clipline.utils.progress import Bar

if TYPE_CHECKING:
    from datasets import Dataset


def collect(dataset: Hub, cache: Path) -> Collected:
    """Write the dataset's images to `cache` and read its captions. Raises CliplineError or UsageError."""
    table, revision, roots = open_hub(dataset, cache)
    folder = cache / "raw-hub"
    files = _Files(folder / "images", roots)
    rows, uncaptioned = [], 0
    with Bar(f"reading {dataset.path}", len(table), "rows") as bar:
        for index, (image, captions, split) in enumerate(_records(table, dataset.source, dataset.path)):
            if captions:
                name = files.write(image, index, f"{dataset.path}: row {index}")
                rows += [CaptionRow(name, caption, split) for caption in captions]
            uncaptioned += not captions
            bar.advance()
    rows, skipped = reconcile(rows, files.names, dataset.expect, dataset.path)
    prune(files.folder, files.names)
    skipped |= {"images_without_caption": uncaptioned, "repeated_images": files.repeated}
    return Collected(folder, rows, None, skipped, {"revision": revision} if revision else {})


def _records(table: Dataset, source: HubSource, where: str) -> Iterator[tuple[Any, list[str], str | None]]:
    """Yield (undecoded image, captions, split) of each row. Raises UsageError where a column is missing or wrong."""
    import datasets

    columns = [name for name in (source.image_column, *source.caption_columns, source.split_column) if name]
    for name in columns:
        if name not in table.column_names:
            raise UsageError(f"{where}: no column `{name}`; it has: {', '.join(table.column_names)}")
    labels = getattr(table.features[source.split_column], "names", None) if source.split_column else None
    try:
        table = table.select_columns(columns).cast_column(source.image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError):
        kind = table.features[source.image_column]
        raise UsageError(f"{where}: column `{source.image_column}` holds no images but {kind}") from None
    for index, record in enumerate(table):
        captions = [
            text for name in source.caption_columns for text in _texts(record[name], name, f"{where}: row {index}")
        ]
        split = record[source.split_column] if source.split_column else None
        if labels and split is not None:
            split = labels[split]  # a ClassLabel column holds numbers
        yield record[source.image_column], captions, split and str(split)


def _texts(cell: Any, column: str, where: str) -> list[str]:
    listed = [cell] if isinstance(cell, str) else cell or []
    if not isinstance(listed, list) or not all(isinstance(text, str | None) for text in listed):
        raise UsageError(f"{where}: column `{column}` holds no text nor list of texts")
    return [text for item in listed if item for text in texts(item)]


class _Files:
    """Writes image files into one folder; the same bytes are written once.

    folder: where to. roots: the folders from which files may be read, the dataset's own first.
    names: the files written. repeated: how many images were not written again.
    """

    def __init__(self, folder: Path, roots: list[Path]) -> None:
        self.folder, self.roots = folder, [root.resolve() for root in roots]
        self.names: set[str] = set()
        self.repeated = 0
        self._by_hash: dict[bytes, str] = {}
        self._taken: set[str] = set()  # names, without letter case
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, image: dict | None, index: int, where: str) -> str:
        """Write the undecoded image of row `index`; return its file name, or a name in brackets if it is missing.

        where: for messages. Raises CliplineError where the row names a file outside the dataset.
        """
        data, path = (image["bytes"], image["path"]) if image else (None, None)
        if data is None:
            file = self._allowed(path, where) if path else None
            if file is None or not file.is_file():
                return f"(row {index}: {path or 'no image'})"
            data = file.read_bytes()
        digest = hashlib.sha256(data).digest()
        if digest in self._by_hash:
            self.repeated += 1
            return self._by_hash[digest]
        name = self._by_hash[digest] = self._name(path or "", data, index)
        part = self.folder / ".part"
        part.write_bytes(data)
        part.replace(self.folder / name)
        self.names.add(name)
        return name

    def _allowed(self, path: str, where: str) -> Path:
        # A table from elsewhere must not copy other files of this machine into the dataset.
        file = (self.roots[0] / path).resolve()
        if not any(file.is_relative_to(root) for root in self.roots):
            raise CliplineError(f"{where}: unsafe: it names {path}, which is outside the dataset")
        return file

    def _name(self, path: str, data: bytes, index: int) -> str:
        """The original file name if there is one, made unique by the row's number; else the row's number."""
        original = PurePosixPath(re.sub(r"[\x00-\x1f\\]", "_", unicodedata.normalize("NFC", path)))
        suffix = original.suffix if original.suffix.lower() in IMAGE_SUFFIXES else _suffix(data)
        stem = original.stem.lstrip(".")[:150]
        name = f"{stem}{suffix}" if stem else f"{index:08d}{suffix}"
        if name.casefold() in self._taken:
            name = f"{stem}_{index:08d}{suffix}"
        self._taken.add(name.casefold())
        return name


def _suffix(data: bytes) -> str:
    # Only these formats, since Pillow opens some others with external programs.
    formats = [name for suffix, name in Image.registered_extensions().items() if suffix in IMAGE_SUFFIXES]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            suffix = f".{(image.format or 'bin').lower()}"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ".bin"
    return {".jpeg": ".jpg", ".mpo": ".jpg"}.get(suffix, suffix)
