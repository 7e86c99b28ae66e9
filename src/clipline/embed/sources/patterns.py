"""Which files are embedded: images by their suffix, and of them those that --include and --exclude choose.

The patterns are those of .gitignore, matched by `pathspec` against `path` as the tables write it. Case counts, and a
pattern chooses a file by naming the file or any folder above it:

    *.png            files of that name in any folder: there is no slash inside, so it may stand anywhere
    drafts  drafts/  folders of that name, anywhere, with all that is in them
    2024/*.jpg       a slash inside: it starts where `path` starts. `*`, `?` and `[a-z]` never cross a slash
    2024/**/*.jpg    `**` is any number of folders, none included

An --include that names files, such as `*.dat` or `*`, takes them whatever their suffix. One that names a folder, such
as `2024` or `2024/**`, takes the images in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from clipline.embed.passed_over import PassedOver
from clipline.errors import UsageError
from clipline.utils.image_names import is_image, machine_folder


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


class ImageFilter:
    """Which files of a folder, a shard or a bucket are embedded, and in `passed_over` what was left out by its name.

    keep_machine_folders: take also thumbnails and deleted files such as `@eaDir`. root: the name of the folder that
    paths start from. Raises UsageError as `Patterns` does.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        keep_machine_folders: bool = False,
        root: str = "",
    ) -> None:
        self._patterns, self._keep, self._root = Patterns(include, exclude), keep_machine_folders, root
        pairs = ((pattern, pattern.rpartition("/")[2]) for pattern in include)
        self._named = [
            (_matcher([pattern], ""), _matcher([name], "")) for pattern, name in pairs if name not in ("", "**")
        ]
        self.passed_over = PassedOver()

    def takes(self, path: str) -> bool:
        """Whether the file at `path`, in a folder that was entered, is embedded."""
        if not self._patterns.takes(path):
            return False
        name = path.rpartition("/")[2]
        if is_image(name) or any(whole(path) and last(name) for whole, last in self._named):
            return True
        self.passed_over.add_file(name)
        return False

    def enters(self, path: str) -> bool:
        """Whether anything in this folder, which ends with a slash, or in those of this file may be embedded."""
        if not self._patterns.enters(path):
            return False
        if not self._keep and (folder := machine_folder(path, self._root)):
            self.passed_over.folders.add(folder)
            return False
        return True


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
