"""Any folder of images with a table of captions: CSV, TSV, or Flickr30k's columns between `|`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath

from clipline.config.base import resolve
from clipline.config.dataset import Table, TableSource
from clipline.data.archives.extract import copy
from clipline.data.archives.readers import Folder
from clipline.data.sources.raw import IMAGE_SUFFIXES, Collected, Row, flat_names, prune, reconcile, some
from clipline.data.sources.records import decode, records
from clipline.errors import CliplineError, UsageError
from clipline.utils.checksums import file_hash

DELIMITERS = (",", "\t", ";", "|")


def collect(dataset: Table, cache: Path) -> Collected:
    """The images below `dataset.path` that its table names. Raises CliplineError or UsageError."""
    path, table = resolve(dataset.path), resolve(dataset.source.captions)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder. Set `path` in the dataset's settings to the folder of your images")
    if not table.is_file():
        raise UsageError(f"{table}: no such file. Set `source.captions` in the dataset's settings to your table")
    rows, short = read_table(table, dataset.source)
    reader = Folder(path)
    rows = _match(rows, list(reader.members), path)
    named = {row.image for row in rows}
    # A file that a caption names is an image whatever its suffix; others, only if they look like one.
    images = [name for name in reader.members if name in named or PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    rows, skipped = reconcile(rows, images, dataset.expect, str(table))
    names = flat_names(dict.fromkeys(row.image for row in rows), str(path))
    raw_of = {relative: raw for raw, relative in names.items()}
    folder = cache / "raw-folder"
    copy(reader, names, folder / "images", f"copying {path.name}")
    prune(folder / "images", names)
    rows = [row._replace(image=raw_of[row.image]) for row in rows]
    skipped |= {"rows_without_caption": len(short)}
    return Collected(folder, rows, file_hash(table), skipped, {"lines_without_caption": short[:20]} if short else {})


def read_table(path: Path, source: TableSource) -> tuple[list[Row], list[int]]:
    """The rows of a caption table, and the lines that end before their caption, which are left out.

    A caption with an unquoted delimiter in it is whole again if its column is the last. Raises CliplineError
    with the line, or the columns found.
    """
    where = str(path)
    text = decode(path.read_bytes(), where)
    delimiter = source.delimiter or _sniff(text, source, where)
    table = records(text, where, delimiter)
    columns = [name.strip() for name in next(table, (1, []))[1]]
    needed = [source.image_column, source.caption_column, source.split_column]
    image, caption, split = (None if name is None else _column(name, columns, where) for name in needed)
    rows, short = [], []
    for line, fields in table:
        if len(fields) > len(columns):
            if caption != len(columns) - 1:
                raise CliplineError(f"{where}: line {line}: {len(fields)} fields, but the header has {len(columns)}")
            fields[caption:] = [delimiter.join(fields[caption:])]
        if len(fields) <= max(image, caption, split or 0):
            short.append(line)
            continue
        if not fields[image].strip():
            raise CliplineError(f"{where}: line {line}: no image is named")
        named_split = None if split is None else fields[split].strip()
        rows.append(Row(fields[image].strip(), fields[caption].strip(), named_split))
    return rows, short


def _sniff(text: str, source: TableSource, where: str) -> str:
    """The delimiter under which the header has the columns that the settings name."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    wanted = (source.image_column, source.caption_column)
    split = {mark: [name.strip().strip('"') for name in header.split(mark)] for mark in DELIMITERS}
    mark = max(split, key=lambda mark: (len(set(wanted) & set(split[mark])), len(split[mark])))
    for name in wanted:
        _column(name, split[mark], where)
    return mark


def _column(name: str, columns: list[str], where: str) -> int:
    if columns.count(name) != 1:
        found, what = (
            some([f"`{column}`" for column in columns if column], 20),
            "more than one" if name in columns else "no",
        )
        raise UsageError(
            f"{where}: {what} column `{name}`; its first line has: {found or 'nothing'}. Set the columns in `source`"
        )
    return columns.index(name)


def _match(rows: list[Row], members: list[str], folder: Path) -> list[Row]:
    """Rows that name their images by the path below the folder; a bare file name may stand for that path."""
    # Table and file system may write accents in two ways.
    known = {unicodedata.normalize("NFC", member): member for member in members}
    by_name = defaultdict(list)
    for composed, member in known.items():
        by_name[PurePosixPath(composed).name].append(member)
    matched = {}
    for image in {row.image for row in rows}:
        path = PurePosixPath(unicodedata.normalize("NFC", image).replace("\\", "/"))
        name = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        same = [known[name]] if name in known else by_name[name]
        if len(same) > 1:
            raise CliplineError(f"{folder}: {image} may be any of {some(same)}. Name it with its folder in the table")
        matched[image] = same[0] if same else name
    return [row._replace(image=matched[row.image]) for row in rows]
