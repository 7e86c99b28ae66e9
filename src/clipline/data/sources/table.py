"""`kind: csv`: any folder of images with a table of captions, as CSV, TSV, or with `|` between columns (Flickr30k)."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from clipline.config.base import resolve
from clipline.config.dataset import Table, TableSource
from clipline.data.archives.extract import copy
from clipline.data.archives.readers import Folder
from clipline.data.records import SurplusFields, decode, records
from clipline.data.sources.image_files import ImageFiles
from clipline.data.sources.raw import (
    CaptionRow,
    CaptionTable,
    Collected,
    flat_name,
    flat_names,
    prune,
    reconcile,
)
from clipline.errors import CliplineError, UsageError, first_few, shorten
from clipline.utils.cells import image_or_path, texts
from clipline.utils.checksums import file_hash
from clipline.utils.image_names import is_image

DELIMITERS = (",", "\t", ";", "|")


def collect(dataset: Table, cache: Path) -> Collected:
    """Copy the images below `dataset.path` that its table names. Raises CliplineError or UsageError."""
    path, table = resolve(dataset.path), resolve(dataset.source.captions)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder. Fix: set `path` in the dataset's settings to your image folder")
    if not table.is_file():
        raise UsageError(f"{table}: no such file. Fix: set `source.captions` in the dataset's settings to your table")
    read = read_table(table, dataset.source)
    reader, folder = Folder(path), cache / "raw-folder"
    files = ImageFiles(folder / "images", map(flat_name, (*reader.members, *(row.image for row in read.rows))))
    rows = _match(_write_images(read.rows, files), list(reader.members), path, files.names)
    named = {row.image for row in rows}
    # A file that a caption names counts as an image whatever its suffix is; other files only if their suffix is known.
    images = [name for name in reader.members if name in named or is_image(name)]
    rows, skipped = reconcile(rows, [*images, *files.names], dataset.expect, str(table))
    names = flat_names(dict.fromkeys(row.image for row in rows if row.image not in files.names), str(path))
    raw_of = {relative: raw for raw, relative in names.items()}
    copy(reader, names, files.folder, f"copying {path.name}")
    prune(files.folder, names.keys() | files.names)
    rows = [row._replace(image=raw_of.get(row.image, row.image)) for row in rows]
    skipped |= {"rows_without_caption": len(read.short)}
    return Collected(folder, rows, file_hash(table), skipped, read.notes())


def _write_images(rows: list[CaptionRow], files: ImageFiles) -> list[CaptionRow]:
    """Write the images that cells hold instead of paths; their rows then name the files that were written."""
    named: dict[str, str] = {}
    for index, row in enumerate(rows):
        if row.image not in named:
            found = image_or_path(row.image)
            named[row.image] = files.write(found, "", index) if isinstance(found, bytes) else found or row.image
    return [row._replace(image=named[row.image]) for row in rows]


def read_table(path: Path, source: TableSource) -> CaptionTable:
    """Read a caption table.

    Unquoted delimiters in a caption are kept if the caption column is the last one and other rows have none. Raises
    CliplineError with the line, or UsageError with the columns that there are.
    """
    where = str(path)
    text = decode(path.read_bytes(), where)
    delimiter = source.delimiter or _sniff(text, source, where)
    table = records(text, where, delimiter)
    header = next(table, None)
    columns = [name.strip() for name in header.fields] if header else []
    image = _column(source.image_column, columns, where)
    captions = [_column(name, columns, where) for name in source.caption_columns]
    split = None if source.split_column is None else _column(source.split_column, columns, where)
    surplus = SurplusFields(columns, captions, delimiter, where)
    rows, short = [], []
    for record in table:
        fields = surplus.join(record)
        if len(fields) <= max(image, min(captions), split or 0):
            short.append(record.line)
            continue
        name, named_split = fields[image].strip(), None if split is None else fields[split].strip()
        if not name:
            raise CliplineError(f"{where}: line {record.line}: no image is named")
        cells = [fields[caption] for caption in captions if caption < len(fields)]
        rows += [CaptionRow(name, text, named_split) for cell in cells for text in texts(cell)]
    surplus.check()
    return CaptionTable(rows, short, surplus.lines)


def _sniff(text: str, source: TableSource, where: str) -> str:
    """The delimiter that splits the header into the columns that the settings name."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    wanted = [source.image_column, *source.caption_columns]
    columns = {delimiter: [name.strip().strip('"') for name in header.split(delimiter)] for delimiter in DELIMITERS}
    best = max(columns, key=lambda delimiter: (len(set(wanted) & set(columns[delimiter])), len(columns[delimiter])))
    for name in wanted:
        _column(name, columns[best], where)
    return best


def _column(name: str, columns: list[str], where: str) -> int:
    """The index of a column. Raises UsageError where there is none, or more than one."""
    if columns.count(name) != 1:
        problem = "more than one" if name in columns else "no"
        shown = first_few([f"`{column}`" for column in columns if column], 20) or "nothing"
        raise UsageError(
            f"{where}: {problem} column `{name}`; its first line has: {shown}. Fix: set the columns in `source`"
        )
    return columns.index(name)


def _match(rows: list[CaptionRow], members: list[str], folder: Path, written: Collection[str]) -> list[CaptionRow]:
    """Make the rows name their images by the path below `folder`; in the table a file name alone may stand for it.

    written: the images that are not in `folder`, whose rows stay as they are.
    """
    # Table and file system may encode accents in two ways.
    known = {unicodedata.normalize("NFC", member): member for member in members}
    by_name = defaultdict(list)
    for composed, member in known.items():
        by_name[PurePosixPath(composed).name].append(member)
    matched = {}
    for image in {row.image for row in rows}.difference(written):
        path = PurePosixPath(unicodedata.normalize("NFC", image).replace("\\", "/"))
        name = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        same = [known[name]] if name in known else by_name[name]
        if len(same) > 1:
            which = f"{shorten(image)} may be any of {first_few(same)}"
            raise CliplineError(f"{folder}: {which}. Fix: add its folder to the name")
        matched[image] = same[0] if same else name
    return [row._replace(image=matched.get(row.image, row.image)) for row in rows]
