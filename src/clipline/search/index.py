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
from clipline.search import exact, stored
from clipline.search.exact import Best

if TYPE_CHECKING:
    from clipline.embeddings.manifest import Manifest

ATTEMPTS = 3  # to read a folder that another process is writing
READ_AHEAD = 2 << 30  # bytes: more might push out of memory what was read first


@dataclass(frozen=True)
class Hit:
    """An image found. path: as the embeddings name it. score: cosine with the query, -1 to 1. row: in `Index`."""

    path: str
    score: float
    row: int


class Index:
    """The embeddings in `folder` as they were when it was opened; `fresh` says whether they still are.

    manifest: of the folder. vectors: [rows, dim] of the stored dtype, L2-normalised, in the order of the parts; those
    of a large folder are memory-mapped (see `stored`). notes: what the user should know, a line each. Raises
    UsageError where `folder` holds no embeddings, and CliplineError where they are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for attempt in range(1, ATTEMPTS + 1):
            self._state = stored.read_state(folder)
            try:
                self._stored, note = stored.load(folder, self._state)
            except CliplineError:
                # A part that another process has just replaced is not damaged.
                if attempt == ATTEMPTS or self.fresh():
                    raise
            else:
                if attempt == ATTEMPTS or self.fresh():
                    break
        self.manifest: Manifest = self._state.manifest
        self.vectors: np.ndarray = self._stored.vectors
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
    def state(self) -> stored.FolderState:
        """What was opened; its fingerprint names files that are made of these rows."""
        return self._state

    def fresh(self) -> bool:
        """Whether the folder still is what was opened, by the size and date of each part."""
        try:
            return stored.read_state(self.folder) == self._state
        except (UsageError, OSError):
            return False

    def path(self, row: int) -> str:
        """The image of a row, as the embeddings name it. Raises IndexError."""
        return self._stored.paths[row].as_py()

    def paths(self, rows: Sequence[int]) -> list[str]:
        """The images of some rows."""
        if isinstance(rows, range) and rows.step == 1:
            return self._stored.paths.slice(rows.start, len(rows)).to_pylist()
        return [self.path(int(row)) for row in rows]

    def read_ahead(self) -> None:
        """Ask the system to fetch the vectors from the disk while something else is done, such as loading a model."""
        if self._stored.file is None or not hasattr(os, "posix_fadvise"):
            return

        def fetch(handle: int) -> None:
            try:
                os.posix_fadvise(handle, 0, READ_AHEAD, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)

        handle = os.open(self._stored.file, os.O_RDONLY)
        threading.Thread(target=fetch, args=(handle,), daemon=True).start()

    def search(self, queries: np.ndarray, n: int) -> list[list[Hit]]:
        """The `n` best images for each query, best first, exactly; equal scores by row.

        queries: float32 [q, dim], L2-normalised.
        """
        return self.hits(exact.search(self.vectors, queries, n))

    def hits(self, best_rows: list[Best]) -> list[list[Hit]]:
        """Rows with their paths."""
        pairs = (zip(best.rows.tolist(), best.scores.tolist(), strict=True) for best in best_rows)
        return [[Hit(self.path(row), score, row) for row, score in of_query] for of_query in pairs]
