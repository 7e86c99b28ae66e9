"""Which tar shards a user means: one file, a glob, or a brace range such as `photos-{000..012}.tar`."""

from __future__ import annotations

import functools
import glob
import itertools
import math
import os
import re
from pathlib import Path

from clipline.errors import UsageError

# A range with a digit too many is refused instead of expanded in memory.
MAX_SHARDS = 1_000_000
SUFFIX = ".tar"
PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_WILD = re.compile(r"[*?\[{]")


def is_pattern(text: str) -> bool:
    """Whether `text` holds `*`, `?`, `[...]` or `{...}`."""
    return bool(_WILD.search(text))


def expand(text: str) -> tuple[list[Path], Path]:
    """The files that `text` names, and the folder that their names start from: the last one without a pattern.

    A file of exactly that name goes first. Braces name files whether they exist or not; a glob only those that exist.
    Raises UsageError where a glob finds nothing, or braces name more than MAX_SHARDS files.
    """
    path = Path(text)
    if path.exists() or not is_pattern(text):
        return [path], path.parent
    files = [file for name in _braces(text) for file in (_globbed(name) if is_pattern(name) else [Path(name)])]
    if not files:
        raise UsageError(f"{text}: no such files. Fix: check the pattern with ls")
    return list(dict.fromkeys(files)), _root(text)


def _root(text: str) -> Path:
    return Path(_WILD.split(text)[0] + "x").parent


def _globbed(pattern: str) -> list[Path]:
    """The files of a glob, without those behind a link that it matches and that leads to a folder above the link."""
    root = _root(pattern)

    @functools.cache
    def leads_above(folder: Path) -> bool:
        if folder in (root, folder.parent):
            return False
        above = folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())
        return above or leads_above(folder.parent)

    return [file for file in map(Path, _glob(pattern)) if not leads_above(file.parent)]


def _glob(pattern: str) -> list[str]:
    """Files; as in bash, `**` is any number of folders, but none that a link leads to: links may form circles."""
    before, *after = re.split(r"(?<![^/])\*\*/", pattern, maxsplit=1)
    if not after:
        return [file for file in glob.glob(pattern) if os.path.isfile(file)]  # noqa: PTH113, PTH207
    files: list[str] = []
    for top in glob.glob(before) if before else ["."]:  # noqa: PTH207
        for folder, subfolders, _ in os.walk(top):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            files += _glob(os.path.join(glob.escape(folder), *after))  # noqa: PTH118
    return files


def _braces(text: str) -> list[str]:
    """`a{0..1}{x,y}` -> a0x a0y a1x a1y, as bash expands it; with a brace that is not closed `text` itself."""
    from braceexpand import UnbalancedBracesError, braceexpand

    names: list[str] = []
    try:
        # braceexpand holds each range in memory, so their lengths are checked before.
        if math.prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(text)) <= MAX_SHARDS:
            names = list(itertools.islice(braceexpand(text, escape=False), MAX_SHARDS + 1))
    except UnbalancedBracesError:
        return [text]
    if not 0 < len(names) <= MAX_SHARDS:
        raise UsageError(f"{text}: names more than {MAX_SHARDS:,} files. Fix: give fewer shards in one call")
    return names
