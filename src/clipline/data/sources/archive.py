"""`kind: archive`: Flickr8k as an archive or folder, in one of two layouts, possibly below other folders.

Kaggle's layout has Images/ and captions.txt; the two original downloads have Flicker8k_Dataset/ and Flickr8k.token.txt.
A new layout is a parser in `_TABLES`, under the file name of its caption table, and its folder in `IMAGE_FOLDERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from clipline.config.base import resolve
from clipline.config.dataset import Archive, Expect
from clipline.data.archives.extract import copy, read
from clipline.data.archives.readers import Reader, open_reader
from clipline.data.records import SurplusFields, decode, records
from clipline.data.sources import raw
from clipline.data.sources.raw import CaptionRow, CaptionTable, Collected, flat_name
from clipline.errors import CliplineError, first_few, shorten
from clipline.utils.cells import texts
from clipline.utils.checksums import file_hash
from clipline.utils.image_names import is_image

IMAGE_FOLDERS = frozenset({"images", "flicker8k_dataset", "flickr8k_dataset"})
# The original token file has five captions of this name, but no image has ever had it.
KNOWN_ABSENT = frozenset({"2258277193_586949ec62.jpg.1"})


def collect(dataset: Archive, cache: Path) -> Collected:
    """Copy the images and read the captions of `dataset.path`. Raises CliplineError, DamagedError or UsageError."""
    return unpack(resolve(dataset.path), dataset.expect, cache)


def unpack(path: Path, expect: Expect, cache: Path) -> Collected:
    """Copy the images of a known layout into a folder in `cache`; files that an earlier run completed are kept.

    path: the archive or folder. expect: how many images and captions it should have.
    Raises as `collect` does.
    """
    reader = open_reader(path)
    digest = None if path.is_dir() else file_hash(path)
    table = _captions(reader)
    images = _images(reader, {row.image for row in table.rows})
    rows, skipped = raw.reconcile(table.rows, images, expect, str(path), KNOWN_ABSENT)
    wanted = {row.image: images[row.image] for row in rows}
    # Named by its hash: another archive of the same name must not go on where this one stopped.
    folder = cache / f"raw-{(digest or 'folder')[:16]}"
    copy(reader, wanted, folder / "images", f"unpacking {path.name}" if digest else f"copying {path.name}")
    raw.prune(folder / "images", wanted)
    return Collected(folder, rows, digest, skipped, table.notes())


def _captions(reader: Reader) -> CaptionTable:
    tables = [name for name in reader.members if PurePosixPath(name).name.casefold() in _TABLES]
    if len(tables) != 1:
        content = f"found several: {first_few(tables)}" if tables else f"it holds: {_content(reader)}"
        raise CliplineError(
            f"{reader.path}: expected one caption table, captions.txt (Kaggle) or Flickr8k.token.txt "
            f"(original); {content}. Fix: use `kind: csv` for another layout"
        )
    where = f"{reader.path}: {shorten(tables[0])}"
    parse = _TABLES[PurePosixPath(tables[0]).name.casefold()]
    table = parse(decode(read(reader, tables[0]), where), where)
    return table._replace(rows=[row._replace(image=flat_name(row.image)) for row in table.rows])


def _kaggle(text: str, where: str) -> CaptionTable:
    """Parse CSV with the header `image,caption`; unquoted commas of some rows belong to the caption."""
    table = records(text, where)
    header = next(table, None)
    columns = header.fields if header else []
    if [name.strip().casefold() for name in columns] != ["image", "caption"]:
        found = shorten(",".join(columns))
        raise CliplineError(f"{where}: line 1: expected the header `image,caption`, found `{found}`")
    surplus, rows = SurplusFields(columns, [1], ",", where), []
    for record in table:
        fields = surplus.join(record)
        if len(fields) < 2 or not fields[0].strip():
            found = shorten(record.text.strip())
            raise CliplineError(f"{where}: line {record.line}: expected `image,caption`, found `{found}`")
        rows += [CaptionRow(fields[0].strip(), text) for text in texts(fields[1])]
    surplus.check()
    return CaptionTable(rows, joined=surplus.lines)


def _original(text: str, where: str) -> CaptionTable:
    """Parse lines of the form `name.jpg#0<tab>caption`."""
    rows = []
    for line, content in enumerate(text.split("\n"), start=1):
        name, tab, caption = content.partition("\t")
        image, mark, number = name.strip().rpartition("#")
        if tab and mark and image and number.isdecimal():
            rows.append(CaptionRow(image, caption.strip()))
        elif content.strip():
            found = shorten(content.strip())
            raise CliplineError(f"{where}: line {line}: expected `name.jpg#0<tab>caption`, found `{found}`")
    return CaptionTable(rows)


_TABLES: dict[str, Callable[[str, str], CaptionTable]] = {
    "captions.txt": _kaggle,
    "flickr8k.token.txt": _original,
}


def _images(reader: Reader, named: set[str]) -> dict[str, str]:
    """{raw name: member} of the files below an image folder that captions name or that look like images."""
    below = {}  # path below the image folder: member
    for name in reader.members:
        parts = name.split("/")
        depths = [depth for depth, part in enumerate(parts[:-1]) if part.casefold() in IMAGE_FOLDERS]
        if depths:
            relative = "/".join(parts[depths[-1] + 1 :])
            if flat_name(relative) in named or is_image(name):
                if relative in below:
                    raise CliplineError(
                        f"{reader.path}: both {shorten(below[relative])} and {shorten(name)} are image "
                        f"{shorten(relative)}. Fix: remove one"
                    )
                below[relative] = name
    if not below:
        raise CliplineError(
            f"{reader.path}: no image in a folder named Images or Flicker8k_Dataset; it holds: {_content(reader)}"
        )
    return {name: below[relative] for name, relative in raw.flat_names(below, str(reader.path)).items()}


def _content(reader: Reader) -> str:
    top = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in reader.members})
    return first_few(top, 8) or "nothing"
