"""`kind: hf`: images and captions of a Hugging Face dataset, as files with their original bytes where it has them.

Rows that repeat an image byte for byte become one image with several captions: as two images they could end up in two
splits.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipline.config.dataset import Hub, HubSource
from clipline.data.sources.hub_load import open_hub
from clipline.data.sources.image_files import ImageFiles
from clipline.data.sources.raw import CaptionRow, Collected, prune, reconcile
from clipline.errors import CliplineError, UsageError, first_few, shorten
from clipline.utils.cells import image_or_path, texts
from clipline.utils.progress import Bar

if TYPE_CHECKING:
    from datasets import Dataset


def collect(dataset: Hub, cache: Path) -> Collected:
    """Write the dataset's images to `cache` and read its captions. Raises CliplineError or UsageError."""
    table, revision, roots = open_hub(dataset, cache)
    folder = cache / "raw-hub"
    roots = [root.resolve() for root in roots]
    files = ImageFiles(folder / "images")
    rows, uncaptioned = [], 0
    with Bar(f"reading {dataset.path}", len(table), "rows") as bar:
        for index, (image, captions, split) in enumerate(_records(table, dataset.source, dataset.path)):
            if captions:
                name = _write(image, index, files, roots, f"{dataset.path}: row {index}")
                rows += [CaptionRow(name, caption, split) for caption in captions]
            uncaptioned += not captions
            bar.advance()
    rows, skipped = reconcile(rows, files.names, dataset.expect, dataset.path)
    prune(files.folder, files.names)
    skipped |= {"images_without_caption": uncaptioned, "repeated_images": files.repeated}
    return Collected(folder, rows, None, skipped, {"revision": revision} if revision else {})


def _write(image: dict | None, index: int, files: ImageFiles, roots: list[Path], where: str) -> str:
    """Write the undecoded image of row `index`; return its file name, or a name in brackets if it is missing."""
    found = image_or_path(image)
    if isinstance(found, bytes):
        name = image["path"] if image["bytes"] else None  # without bytes the image stands in the path itself
        return files.write(found, name or "", index)
    data = _read(found, roots, where) if found else None
    return f"(row {index}: {shorten(found or 'no image')})" if data is None else files.write(data, found, index)


def _records(table: Dataset, source: HubSource, where: str) -> Iterator[tuple[Any, list[str], str | None]]:
    """Yield (undecoded image, captions, split) of each row. Raises UsageError where a column is missing or wrong."""
    import datasets

    columns = [name for name in (source.image_column, *source.caption_columns, source.split_column) if name]
    for name in columns:
        if name not in table.column_names:
            raise UsageError(f"{where}: no column `{shorten(name)}`; it has: {first_few(table.column_names, 20)}")
    labels = getattr(table.features[source.split_column], "names", None) if source.split_column else None
    try:
        table = table.select_columns(columns).cast_column(source.image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError):
        kind = table.features[source.image_column]
        raise UsageError(f"{where}: column `{source.image_column}` holds no images but {shorten(kind)}") from None
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


def _read(path: str, roots: list[Path], where: str) -> bytes | None:
    """The bytes of the file that a row names; None where there is none.

    roots: the folders from which files may be read, the dataset's own first. Raises CliplineError for others.
    """
    try:
        # A table from elsewhere must not copy other files of this machine into the dataset.
        file = (roots[0] / path).resolve()
        if not any(file.is_relative_to(root) for root in roots):
            raise CliplineError(f"{where}: unsafe: it names {shorten(path)}, which is outside the dataset")
        return file.read_bytes() if file.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a loop of links
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        return None
