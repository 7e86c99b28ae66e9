"""Flickr8k as an archive or folder: Kaggle's layout (Images/, captions.txt) or the original's two downloads
(Flicker8k_Dataset/, Flickr8k.token.txt), possibly below other folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from clipline.config.base import resolve
from clipline.config.dataset import Archive, Expect
from clipline.data.archives.extract import copy, read
from clipline.data.archives.readers import Reader, open_reader
from clipline.data.sources.raw import (
    IMAGE_SUFFIXES,
    Collected,
    Row,
    flat_name,
    flat_names,
    prune,
    reconcile,
    some,
)
from clipline.data.sources.records import decode, records
from clipline.errors import CliplineError
from clipline.utils.checksums import file_hash

IMAGE_FOLDERS = frozenset({"images", "flicker8k_dataset", "flickr8k_dataset"})
# The original token file has five captions under this name, which no image ever had.
KNOWN_ABSENT = frozenset({"2258277193_586949ec62.jpg.1"})


def collect(dataset: Archive, cache: Path) -> Collected:
    """The archive or folder at `dataset.path`. Raises CliplineError, DamagedError or UsageError."""
    return unpack(resolve(dataset.path), dataset.expect, cache)


def unpack(path: Path, expect: Expect, cache: Path) -> Collected:
    """Copy the images of a known layout below `cache`; what an earlier run copied whole is kept."""
    reader = open_reader(path)
    digest = None if path.is_dir() else file_hash(path)
    rows = _captions(reader)
    images = _images(reader, {row.image for row in rows})
    rows, skipped = reconcile(rows, images, expect, str(path), KNOWN_ABSENT)
    wanted = {row.image: images[row.image] for row in rows}
    # Another archive of the same name does not go on where this one stopped.
    folder = cache / f"raw-{(digest or 'folder')[:16]}"
    copy(reader, wanted, folder / "images", f"unpacking {path.name}" if digest else f"copying {path.name}")
    prune(folder / "images", wanted)
    return Collected(folder, rows, digest, skipped)


def _captions(reader: Reader) -> list[Row]:
    tables = [name for name in reader.members if PurePosixPath(name).name.casefold() in _TABLES]
    if len(tables) != 1:
        found = f"found several: {some(tables)}" if tables else f"it holds: {_content(reader)}"
        raise CliplineError(
            f"{reader.path}: expected one caption table, captions.txt (Kaggle) or Flickr8k.token.txt "
            f"(original); {found}. For another layout use `kind: csv`"
        )
    where = f"{reader.path}: {tables[0]}"
    parse = _TABLES[PurePosixPath(tables[0]).name.casefold()]
    rows = parse(decode(read(reader, tables[0]), where), where)
    return [row._replace(image=flat_name(row.image)) for row in rows]


def _kaggle(text: str, where: str) -> list[Row]:
    """`image,caption` as CSV under that header; a comma too many belongs to the caption."""
    table = records(text, where)
    _, header = next(table, (1, []))
    if [name.strip().casefold() for name in header] != ["image", "caption"]:
        raise CliplineError(f"{where}: line 1: expected the header `image,caption`, found `{','.join(header)[:80]}`")
    rows = []
    for line, fields in table:
        if len(fields) < 2 or not fields[0].strip():
            raise CliplineError(f"{where}: line {line}: expected `image,caption`, found `{','.join(fields)[:80]}`")
        rows.append(Row(fields[0].strip(), ",".join(fields[1:]).strip()))
    return rows


def _original(text: str, where: str) -> list[Row]:
    """`name.jpg#0<tab>caption`, one a line."""
    rows = []
    for line, content in enumerate(text.split("\n"), start=1):
        name, tab, caption = content.partition("\t")
        image, mark, number = name.strip().rpartition("#")
        if tab and mark and image and number.isdecimal():
            rows.append(Row(image, caption.strip()))
        elif content.strip():
            raise CliplineError(f"{where}: line {line}: expected `name.jpg#0<tab>caption`, found `{content[:80]}`")
    return rows


_TABLES: dict[str, Callable[[str, str], list[Row]]] = {
    "captions.txt": _kaggle,
    "flickr8k.token.txt": _original,
}


def _images(reader: Reader, named: set[str]) -> dict[str, str]:
    """{raw name: member} of the files below an image folder that captions name or that look like images."""
    below = {}
    for name in reader.members:
        parts = name.split("/")
        marks = [at for at, part in enumerate(parts[:-1]) if part.casefold() in IMAGE_FOLDERS]
        if marks:
            relative = "/".join(parts[marks[-1] + 1 :])
            if flat_name(relative) in named or PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                if relative in below:
                    raise CliplineError(
                        f"{reader.path}: both {below[relative]} and {name} are image {relative}. Remove one"
                    )
                below[relative] = name
    if not below:
        raise CliplineError(
            f"{reader.path}: no image in a folder named Images or Flicker8k_Dataset; it holds: {_content(reader)}"
        )
    return {raw: below[relative] for raw, relative in flat_names(below, str(reader.path)).items()}


def _content(reader: Reader) -> str:
    top = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in reader.members})
    return some(top, 8) or "nothing"
