"""Named files of one folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from clipline.embed.item import FileItem
from clipline.embeddings.paths import to_text


class Files:
    """The files `names`, relative to `folder`, in plain text order of `path`."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.root, self._folder = str(folder), folder
        self._names = sorted((to_text(name), name) for name in names)

    def __iter__(self) -> Iterator[FileItem]:
        for path, name in self._names:
            yield FileItem(path, str(self._folder / name))
