"""Which tar shards a user means: one file, a glob, or a brace range such as `photos-{000..012}.tar`."""

from __future__ import annotations

import glob
import itertools
import os
import re
from pathlib import Path

from clipline.errors import UsageError

# A range that a slip of the finger makes longer is refused, not tried.
MOST = 1_000_000
SUFFIX = ".tar"
PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILD = re.compile(r"[*?\[{]")


def is_pattern(text: str) -> bool:
    """Whether `text` holds `*`, `?`, `[...]` or `{...}`."""
    return bool(_WILD.search(text))


def expand(text: str) -> tuple[list[Path], Path]:
    """The files that `text` names, and the folder that their names start from: the last one without a pattern.

    A file of exactly that name goes first. A brace names each file, so all are given, there or not.
    Raises UsageError where a glob finds nothing, or a range is too long.
    """
    path = Path(text)
    if path.exists() or not is_pattern(text):
        return [path], path.parent
    names = _braces(text)
    files = [file for name in names for file in (_glob(name) if is_pattern(name) else [name])]
    if not files:
        raise UsageError(f"{text}: no such files. Fix: check the pattern with ls")
    return [Path(file) for file in dict.fromkeys(files)], Path(_WILD.split(text)[0] + "x").parent


def _glob(pattern: str) -> list[str]:
    return [file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)]  # noqa: PTH113, PTH207


def _braces(text: str) -> list[str]:
    """`a{0..1}{x,y}` -> a0x a0y a1x a1y, as bash does it: a leading zero sets the width."""
    pieces = _BRACES.split(text)  # text and the content of braces in turn
    choices = [[piece] if at % 2 == 0 else _choices(piece) for at, piece in enumerate(pieces)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > MOST:
        raise UsageError(f"{text}: names {count:,} files; the most is {MOST:,}")
    return ["".join(each) for each in itertools.product(*choices)]


def _choices(content: str) -> list[str] | range:
    if "," in content:
        return content.split(",")
    if not (match := _RANGE.fullmatch(content)):
        return [f"{{{content}}}"]
    first, last = match.groups()
    width = max(len(first), len(last)) if first[0] == "0" or last[0] == "0" else 0
    step = 1 if int(last) >= int(first) else -1
    if abs(int(last) - int(first)) >= MOST:
        raise UsageError(f"{{{content}}}: names more than {MOST:,} files")
    return [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]
