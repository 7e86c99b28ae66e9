"""Which files count as images, and which of them the user's --include and --exclude choose.

The patterns are those of .gitignore, matched by `pathspec` against `path` as the tables write it. Case counts, and a
pattern chooses a file by naming the file or any folder above it:

    *.png            files of that name in any folder: there is no slash inside, so it may stand anywhere
    drafts  drafts/  folders of that name, anywhere, with all that is in them
    2024/*.jpg       a slash inside: it starts where `path` starts. `*`, `?` and `[a-z]` never cross a slash
    2024/**/*.jpg    `**` is any number of folders, none included
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from clipline.errors import UsageError

EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"])


def is_image(name: str) -> bool:
    """By extension, in any case, not by content: a text file named .jpg must fail to decode, not be hidden."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122 - millions of names, and Path is slow


def is_hidden(path: str) -> bool:
    """Whether the file or a folder above it starts with a dot, as `.thumbnails/` and macOS's `._photo.jpg` do."""
    return path.startswith(".") or "/." in path


class Patterns:
    """The files that --include and --exclude leave. No `include` means every file; `exclude` wins over `include`.

    Raises UsageError for a pattern that could match nothing.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._included = _matcher(include, "--include") if include else lambda path: True
        self._excluded = _matcher(exclude, "--exclude") if exclude else lambda path: False

    def takes(self, path: str) -> bool:
        """Whether the file at `path` is chosen."""
        return self._included(path) and not self._excluded(path)

    def enters(self, folder: str) -> bool:
        """Whether anything in `folder`, which ends with a slash, may be chosen: False saves listing it."""
        return not self._excluded(folder)


def _matcher(patterns: Sequence[str], option: str) -> Callable[[str], bool]:
    """Whether any of `patterns` names a path. Raises UsageError."""
    from pathspec import PathSpec  # 80 ms

    for pattern in patterns:
        if any(name in ("", ".", "..") for name in pattern.removeprefix("/").rstrip("/").split("/")):
            raise UsageError(
                f"{option} {pattern!r}: matches nothing: paths have no `.`, `..` or empty names in them. "
                "Fix: write a file name such as '*.png', or a path from the source's top"
            )
    # `#` and `!` mean something else in .gitignore; `2024/*` there names no file further below.
    lines = [
        re.sub(r"^[#!]", r"\\\g<0>", f"{line}*" if line.endswith("/*") else line) for line in map(_one_line, patterns)
    ]
    try:
        match = PathSpec.from_lines("gitignore", lines, backend="simple").match_file
    except (ValueError, re.error) as error:
        raise UsageError(f"{option} {', '.join(map(repr, patterns))}: {error}. Fix: see gitignore's patterns") from None
    return lambda path: match(_one_line(path))


def _one_line(path: str) -> str:
    """Names may hold newlines, which end a line for regular expressions; none holds NUL."""
    return path.replace("\n", "\0")
