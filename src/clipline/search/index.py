"""An embeddings folder, opened for searches."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipline.errors import CliplineError, UsageError
from clipline.search import exact
from clipline.search import rows as stored
from clipline.search.exact import Best

if TYPE_CHECKING:
    from clipline.embeddings.manifest import Manifest

ATTEMPTS = 3  # at reading a folder that is written meanwhile
AHEAD = 2 << 30  # bytes read ahead: more might push out of memory what was read first


@dataclass(frozen=True)
class Hit:
    """An image found. path: as the embeddings name it. score: cosine with the query, -1 to 1. row: in `Index`."""

    path: str
    score: float
    row: int


class Index:
    """The embeddings in `folder` as they were when it was opened; `fresh` says whether they still are.

    manifest: of the folder. vectors: [rows, dim] of the stored dtype, L2-normalised, in the order of the parts; of a
    large folder they are memory-mapped (see `rows`). notes: what the person who searches should know, a line each.
    Raises UsageError where `folder` holds no embeddings, and CliplineError where they are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for left in reversed(range(ATTEMPTS)):
            self._state = stored.state(folder)
            try:
                self._rows, note = stored.load(folder, self._state)
            except CliplineError:
                # A part that another process just replaced is not damaged.
                if not left or self.fresh():
                    raise
            else:
                if not left or self.fresh():
                    break
        self.manifest: Manifest = self._state.manifest
        self.vectors: np.ndarray = self._rows.vectors
        self.notes = [note] if note else []
        if not self.manifest.complete:
            self.notes.append(f"{folder} is being written, or its run was interrupted: not all images are in it")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.manifest.dim

    @property
    def state(self) -> stored.State:
        """What was opened, to name things that are made of it."""
        return self._state

    def fresh(self) -> bool:
        """Whether the folder still is what was opened, by the size and date of each part."""
        try:
            return stored.state(self.folder) == self._state
        except (UsageError, OSError):
            return False

    def path(self, row: int) -> str:
        """The image of a row, as the embeddings name it. Raises IndexError."""
        return self._rows.paths[row].as_py()

    def paths(self, rows: Sequence[int]) -> list[str]:
        """The images of some rows."""
        if isinstance(rows, range) and rows.step == 1:
            return self._rows.paths.slice(rows.start, len(rows)).to_pylist()
        return [self.path(int(row)) for row in rows]

    def read_ahead(self) -> None:
        """Ask the system to fetch the vectors from the disk while something else is done, such as loading a model."""
        if self._rows.file is None or not hasattr(os, "posix_fadvise"):
            return

        def fetch(handle: int) -> None:
            try:
                os.posix_fadvise(handle, 0, AHEAD, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)

        handle = os.open(self._rows.file, os.O_RDONLY)
        threading.Thread(target=fetch, args=(handle,), daemon=True).start()

    def search(self, queries: np.ndarray, n: int) -> list[list[Hit]]:
        """float32 [q, dim], L2-normalised -> for each query its `n` best, best first, exactly; equal scores by row."""
        return self.hits(exact.search(self.vectors, queries, n))

    def hits(self, found: list[Best]) -> list[list[Hit]]:
        """Rows with their paths."""
        return [
            [
                Hit(self.path(row), score, row)
                for row, score in zip(best.rows.tolist(), best.scores.tolist(), strict=True)
            ]
            for best in found
        ]
