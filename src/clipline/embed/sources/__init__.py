"""Where images come from: a folder, a list or table of paths, tar shards, or a URL.

Each is a `Source` (see `embed/item.py`); `open_source` picks one by what the user wrote.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipline.embed.item import Source
from clipline.embed.sources import shard_names, table
from clipline.embed.sources.folder import Folder
from clipline.embed.sources.listing import STDIN, Listing
from clipline.embed.sources.remote import Remote
from clipline.embed.sources.shards import Shards
from clipline.embed.sources.table import Table
from clipline.errors import UsageError
from clipline.utils.image_names import is_image

LISTS = (".txt", ".lst", ".list")
SUFFIXES = (*LISTS, *table.SUFFIXES, shard_names.SUFFIX, *shard_names.PACKED_SUFFIXES)
KINDS = "a folder, a list of paths (.txt .lst), a table (.parquet .csv .tsv), tar shards, or a URL"


def open_source(
    what: str,
    *,
    column: str | None = None,
    root: Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep_machine_folders: bool = False,
    skip: Path | None = None,
) -> Source:
    """The images that `what` names.

    `://` in it means a URL; a folder is walked, unless it holds tar files and neither images nor folders; `.tar`, also
    with `*`, `?`, `[...]` or `{000..012}`, means shards; `.parquet`, `.csv` and `.tsv` are tables, whose `column` holds
    paths; `.txt`, `.lst`, `-` and pipes are lists of paths. root: the folder that relative paths of a list or table
    start from. include, exclude, keep_machine_folders: see `patterns`. skip: a folder to leave out of a walk, such as
    the output folder. Raises UsageError for anything else, and for an option that would have no effect.
    """
    patterns = {"include": include, "exclude": exclude}
    if what.startswith("file://"):
        what = what.removeprefix("file://")
    path, suffix = Path(what), Path(what).suffix.lower()
    is_table = "://" not in what and suffix in table.SUFFIXES and not path.is_dir()
    is_list = "://" not in what and not is_table and (what == STDIN or _is_list(path))
    if column is not None and not is_table:
        raise UsageError(f"{what}: --column is for tables ({' '.join(table.SUFFIXES)}). Fix: leave it out")
    if root is not None and not (is_table or is_list):
        raise UsageError(f"{what}: --root is for lists and tables of paths. Fix: leave it out")
    if keep_machine_folders and (is_table or is_list):
        raise UsageError(f"{what}: every path in a list or table is taken. Fix: leave out --keep-machine-folders")
    if is_table:
        return Table(path, column, root, **patterns)
    if is_list:
        return Listing(path, root, **patterns)
    options = {**patterns, "keep_machine_folders": keep_machine_folders}
    if "://" in what:
        return _remote(what, options)
    if path.is_dir():
        shards = _only_shards(path)
        return Shards(shards, path, **options) if shards else Folder(path, skip=skip, **options)
    return _shards(what, options)


def _is_list(path: Path) -> bool:
    if path.is_dir():
        return False
    return path.suffix.lower() in LISTS or (path.exists() and not path.is_file())


def _remote(url: str, options: dict[str, Any]) -> Remote:
    name = url.rstrip("/").lower()
    if name.endswith(SUFFIXES):
        raise UsageError(f"{url}: shards, tables and lists are read from this machine. Fix: copy it here first")
    return Remote(url, **options)


def _shards(what: str, options: dict[str, Any]) -> Shards:
    name = what.lower()
    if name.endswith(shard_names.PACKED_SUFFIXES):
        raise UsageError(f"{what}: a compressed tar cannot be read member by member. Fix: unpack it to .tar first")
    if name.endswith(shard_names.SUFFIX):
        files, root = shard_names.expand(what)
        return Shards(files, root, **options)
    if not Path(what).exists():
        hint = " Fix: give its folder, and the pattern as --include" if shard_names.is_pattern(what) else ""
        raise UsageError(f"{what}: no such file or folder.{hint}")
    if is_image(what):
        raise UsageError(f"{what}: is one image. Fix: give its folder, and --include {Path(what).name!r}")
    raise UsageError(f"{what}: cannot tell what this is. Fix: give {KINDS}")


def _only_shards(folder: Path) -> list[Path]:
    """The tar files of a folder, if it holds neither images nor folders; else an empty list."""
    shards = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_image(entry.name) or entry.is_dir():
                    return []
                if entry.name.lower().endswith(shard_names.SUFFIX):
                    shards.append(Path(entry.path))
    except OSError:
        return []  # Folder reports why
    return sorted(shards)
