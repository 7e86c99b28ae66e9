"""The parts of an embeddings folder as one growing table, of which only the last part's rows are in memory.

Every part is full but the last, which the next run continues. So runs that were interrupted end with the same parts
as one run that was not.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipline.embeddings.manifest import part_names, part_path
from clipline.embeddings.part import (
    COLUMNS,
    Dtype,
    Row,
    disk,
    part_name,
    read_part,
    read_rows,
    read_vectors,
    write_part,
)

RowId = tuple[int, int]  # (number of the part, index of the row in it)


class Parts:
    """A table that grows by `add`. The ids of its rows stay the same until `drop`.

    existing: the rows that the folder held when it was opened, with their ids (about 650 bytes of memory each); the
    caller may clear it. Every method raises CliplineError where a part is damaged or the disk refuses.
    """

    def __init__(self, folder: Path, dim: int, dtype: Dtype, part_rows: int) -> None:
        self._folder, self._part_rows, self._dim, self._dtype = folder, part_rows, dim, dtype
        self._read = lru_cache(maxsize=4)(lambda number: self._embeddings(self._part(number, ["embedding"])))
        self._sizes: dict[int, int] = {}
        self._vectors = np.empty((part_rows, dim), dtype)
        self.existing: list[tuple[Row, RowId]] = []
        for name in part_names(folder):
            number = int(name.removesuffix(".parquet").rpartition("-")[2])
            rows = read_rows(self._part(number, COLUMNS))
            self.existing += [(row, (number, index)) for index, row in enumerate(rows)]
            self._sizes[number] = len(rows)
        self._begin(max(self._sizes, default=-1) + 1, [])
        if self._sizes and (last := self._sizes[self._number - 1]) < part_rows:
            self._continue(self._number - 1, [row for row, _ in self.existing[len(self.existing) - last :]])

    def _part(self, number: int, columns: list[str] | None = None) -> pa.Table:
        return read_part(self._folder, part_name(number), self._dim, self._dtype, columns)

    @staticmethod
    def _embeddings(table: pa.Table) -> np.ndarray:
        return read_vectors(table.column("embedding").combine_chunks())

    def _begin(self, number: int, rows: list[Row]) -> None:
        self._number, self._rows = number, rows
        self._saved = len(rows)  # how many of them are in the part's file

    def _continue(self, number: int, rows: list[Row]) -> None:
        """Add to a part that is not full: its file stays until a longer one replaces it."""
        self._vectors[: len(rows)] = self._read(number)
        self._read.cache_clear()  # this part will change
        del self._sizes[number]
        self._begin(number, rows)

    def __len__(self) -> int:
        return sum(self._sizes.values()) + len(self._rows)

    @property
    def files(self) -> int:
        """How many parts there are, once flushed: a table without rows has an empty one."""
        return max(len(self._sizes) + bool(self._rows), 1)

    @property
    def unsaved(self) -> int:
        """Rows that are not in a file yet, which a kill would lose."""
        return len(self._rows) - self._saved

    def add(self, row: Row, vector: np.ndarray) -> RowId:
        """Append a row and return its id. vector: [dim]. A part that is full is written."""
        self._vectors[len(self._rows)] = vector
        self._rows.append(row)
        row_id = (self._number, len(self._rows) - 1)
        if len(self._rows) == self._part_rows:
            self.flush()
            self._sizes[self._number] = self._part_rows
            self._begin(self._number + 1, [])
        return row_id

    def vector(self, row_id: RowId) -> np.ndarray:
        """The embedding [dim] of a row, in the stored dtype."""
        number, index = row_id
        return (self._vectors if number == self._number else self._read(number))[index]

    def flush(self) -> None:
        """Write the last part's rows. A table without rows gets one empty part, as readers need one."""
        if self.unsaved or len(self) == 0:
            write_part(self._folder, part_name(self._number), self._rows, self._vectors[: len(self._rows)])
            self._saved = len(self._rows)

    def drop(self, row_ids: Collection[RowId]) -> None:
        """Flush, then rewrite the parts of these rows without them; a part that keeps no row is deleted."""
        self.flush()
        dropped: dict[int, set[int]] = {}
        for number, index in row_ids:
            dropped.setdefault(number, set()).add(index)
        self._read.cache_clear()
        for number, indexes in sorted(dropped.items()):
            table, name = self._part(number), part_name(number)
            kept = np.array([index for index in range(table.num_rows) if index not in indexes], np.int64)
            if len(kept) or self.files == 1:
                rows = read_rows(table)
                write_part(self._folder, name, [rows[index] for index in kept], self._embeddings(table)[kept])
            else:
                path = part_path(self._folder, name)
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
