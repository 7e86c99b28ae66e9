"""The parts of an embeddings folder as one growing table, of which only the last part's rows are in memory.

Every part is full but the last, which the next run takes up and fills: where runs were interrupted, the parts
are in the end those of one run that was not.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipline.embeddings.manifest import PARTS
from clipline.embeddings.part import FACTS, Dtype, Row, disk, part_path, read_part, read_rows, read_vectors, write_part

Place = tuple[int, int]  # (number of the part, row in it)


class Parts:
    """A table that grows by `add`. A row's place stays the same until `drop`.

    found: the rows that were there when the folder was opened, with their places (some 500 bytes of memory each),
    for the caller to take. Every method raises CliplineError where a part is damaged or the disk refuses.
    """

    def __init__(self, folder: Path, dim: int, dtype: Dtype, part_rows: int) -> None:
        self._folder, self._part_rows, self._dim, self._dtype = folder, part_rows, dim, dtype
        self._read = lru_cache(maxsize=4)(lambda number: self._embeddings(self._part(number, ["embedding"])))
        self._sizes: dict[int, int] = {}
        self._vectors = np.empty((part_rows, dim), dtype)
        self.found: list[tuple[Row, Place]] = []
        for path in sorted(folder.glob(PARTS)):
            number = int(path.stem.rpartition("-")[2])
            rows = read_rows(self._part(number, FACTS))
            self.found += [(row, (number, index)) for index, row in enumerate(rows)]
            self._sizes[number] = len(rows)
        self._begin(max(self._sizes, default=-1) + 1, [])
        if self._sizes and (last := self._sizes[self._number - 1]) < part_rows:
            self._take_up(self._number - 1, [row for row, _ in self.found[len(self.found) - last :]])

    def _part(self, number: int, columns: list[str] | None = None) -> pa.Table:
        return read_part(part_path(self._folder, number), self._dim, self._dtype, columns)

    @staticmethod
    def _embeddings(table: pa.Table) -> np.ndarray:
        return read_vectors(table.column("embedding").combine_chunks())

    def _begin(self, number: int, rows: list[Row]) -> None:
        self._number, self._rows = number, rows
        self._saved = len(rows)  # so many of them are in the part's file

    def _take_up(self, number: int, rows: list[Row]) -> None:
        """Go on with a short part: its file stays until a longer one replaces it."""
        self._vectors[: len(rows)] = self._read(number)
        self._read.cache_clear()  # what it holds of this part will be out of date
        del self._sizes[number]
        self._begin(number, rows)

    def __len__(self) -> int:
        return sum(self._sizes.values()) + len(self._rows)

    @property
    def files(self) -> int:
        """How many parts there are, once flushed: without any row an empty one."""
        return max(len(self._sizes) + bool(self._rows), 1)

    @property
    def unsaved(self) -> int:
        """Rows that a kill would lose now."""
        return len(self._rows) - self._saved

    def add(self, row: Row, vector: np.ndarray) -> Place:
        """Append a row and give its place. vector: [dim]. A part that is full is written."""
        self._vectors[len(self._rows)] = vector
        self._rows.append(row)
        place = (self._number, len(self._rows) - 1)
        if len(self._rows) == self._part_rows:
            self.flush()
            self._sizes[self._number] = self._part_rows
            self._begin(self._number + 1, [])
        return place

    def vector(self, place: Place) -> np.ndarray:
        """The embedding [dim] at `place`, as stored."""
        number, index = place
        return (self._vectors if number == self._number else self._read(number))[index]

    def flush(self) -> None:
        """Write the last part as far as it goes. Without any row there is one empty part: readers need one."""
        if self.unsaved or len(self) == 0:
            write_part(part_path(self._folder, self._number), self._rows, self._vectors[: len(self._rows)])
            self._saved = len(self._rows)

    def drop(self, places: Collection[Place]) -> None:
        """Flush, then write the parts of these rows anew without them; a part with no row left is deleted."""
        self.flush()
        gone: dict[int, set[int]] = {}
        for number, index in places:
            gone.setdefault(number, set()).add(index)
        self._read.cache_clear()
        for number, indexes in sorted(gone.items()):
            table, path = self._part(number), part_path(self._folder, number)
            kept = np.array([index for index in range(table.num_rows) if index not in indexes], np.int64)
            if len(kept) or self.files == 1:
                rows = read_rows(table)
                write_part(path, [rows[index] for index in kept], self._embeddings(table)[kept])
            else:
                with disk(path):
                    path.unlink()
            self._shrink(number, kept)

    def _shrink(self, number: int, kept: np.ndarray) -> None:
        if number == self._number:
            self._vectors[: len(kept)] = self._vectors[kept]
            self._begin(number, [self._rows[index] for index in kept])
        elif len(kept):
            self._sizes[number] = len(kept)
        else:
            del self._sizes[number]
