"""Which files count as images, and which of them the user's --include and --exclude choose.

A pattern is matched against `path` as the tables write it, case counts, and it chooses a file by naming the file
or any folder above it:

    *.png            files of that name in any folder: no slash inside, so it may stand anywhere
    drafts  drafts/  folders of that name, anywhere, with all that is in them
    2024/*.jpg       a slash inside: it starts where `path` starts. `*`, `?` and `[a-z]` never cross a slash
    2024/**/*.jpg    `**` is any number of folders, none included

Python 3.13's `full_match` matches whole paths alone and older ones lack it; `fnmatch` lets `*` cross slashes. Hence
`fnmatch` for each name between slashes, which also takes names with newlines as they are.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence

from clipline.errors import UsageError

EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"])

# One part of a pattern between slashes; None is `**`.
Parts = tuple[re.Pattern[str] | None, ...]


def is_image(name: str) -> bool:
    """By extension, in any case, not by content: a text named .jpg shall fail to decode, not be hidden."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122 - millions of names, and Path is slow


def is_hidden(path: str) -> bool:
    """Whether the file or a folder above it starts with a dot, as `.thumbnails/` and macOS's `._photo.jpg` do."""
    return path.startswith(".") or "/." in path


class Patterns:
    """What --include and --exclude leave. No `include` is everything; what `exclude` names is out all the same.

    Raises UsageError for a pattern that could match nothing.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = [_parse(pattern, "--include") for pattern in include]
        self._exclude = [_parse(pattern, "--exclude") for pattern in exclude]

    def takes(self, path: str) -> bool:
        """Whether the file at `path` is chosen."""
        if not self._include and not self._exclude:
            return True
        names = path.split("/")
        if self._include and not any(_names(parts, names) for parts in self._include):
            return False
        return not any(_names(parts, names) for parts in self._exclude)

    def enters(self, folder: str) -> bool:
        """Whether anything in `folder` may be chosen: False saves listing it."""
        names = folder.rstrip("/").split("/")
        return not any(_names(parts, names) for parts in self._exclude)


def _parse(pattern: str, option: str) -> Parts:
    parts = pattern.rstrip("/").split("/")
    if len(parts) == 1:
        parts = ["**", *parts]
    elif parts[0] == "":  # `/*.png`: only where `path` starts
        parts = parts[1:]
    if not parts[-1]:
        raise UsageError(f"{option} {pattern!r}: is empty. Fix: a file name such as '*.png', or a path")
    if any(part in ("", ".", "..") for part in parts):
        raise UsageError(
            f"{option} {pattern!r}: matches nothing, for paths have no `.`, `..` or empty names in them. "
            "Fix: write it as in `path`, from the source's top"
        )
    # `**/**` is `**`, but tried again and again.
    once = [part for part, before in zip(parts, ["", *parts], strict=False) if not part == before == "**"]
    return tuple(None if part == "**" else re.compile(fnmatch.translate(part)) for part in once)


def _names(parts: Parts, names: Sequence[str], part: int = 0, name: int = 0) -> bool:
    """Whether `parts` match all of `names` or the first few: a folder names what is in it."""
    while part < len(parts):
        if parts[part] is None:
            return any(_names(parts, names, part + 1, at) for at in range(name, len(names) + 1))
        if name == len(names) or not parts[part].match(names[name]):
            return False
        part, name = part + 1, name + 1
    return True
