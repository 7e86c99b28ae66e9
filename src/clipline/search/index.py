"""Exact search through an embeddings folder, block by block, so that memory does not grow with its size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipline.embed import manifest
from clipline.embed.table import part_schema, read_vectors
from clipline.errors import CliplineError

BLOCK = 8192  # rows scored at once: 16 MB of float32 at 512 components


@dataclass(frozen=True)
class Hit:
    """An image found. path: as the embeddings name it. score: cosine with the query, -1 to 1."""

    path: str
    score: float


class Index:
    """An embeddings folder, opened. Raises UsageError where `folder` is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = manifest.read(folder)

    def search(self, queries: np.ndarray, n: int) -> list[list[Hit]]:
        """float32 [q, dim], L2-normalised -> for each query its `n` best, best first; equal scores by path.

        Raises CliplineError where a part is missing or damaged.
        """
        scores = np.empty((len(queries), 0), np.float32)
        paths: list[list[str]] = [[] for _ in queries]
        for block_paths, block in self._blocks():
            scores = np.concatenate([scores, queries @ block.T], axis=1)
            # Stable, and earlier rows stand first: equal scores keep the order of the paths.
            best = np.argsort(-scores, axis=1, kind="stable")[:, :n]
            scores = np.take_along_axis(scores, best, axis=1)
            for query, columns in enumerate(best.tolist()):
                known, old = len(paths[query]), paths[query]
                paths[query] = [old[i] if i < known else block_paths[i - known].as_py() for i in columns]
        return [
            [Hit(path, score) for path, score in zip(row, row_scores, strict=True)]
            for row, row_scores in zip(paths, scores.tolist(), strict=True)
        ]

    def _blocks(self) -> Iterator[tuple[pa.StringArray, np.ndarray]]:
        """(paths [b], embeddings float32 [b, dim]) in the order in which they were written."""
        rows, schema = 0, part_schema(self.manifest.dim, self.manifest.dtype)
        for part in sorted(self.folder.glob(manifest.PARTS)):
            try:
                with pq.ParquetFile(part) as file:
                    if not file.schema_arrow.equals(schema):
                        raise ValueError(f"its columns are not those of {self.manifest.dim} {self.manifest.dtype}")
                    for batch in file.iter_batches(BLOCK, columns=["path", "embedding"]):
                        rows += len(batch)
                        yield batch.column("path"), read_vectors(batch.column("embedding")).astype(np.float32)
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                first = str(error).splitlines()[0]
                raise CliplineError(f"{part}: damaged ({first}). Mend: embed again with --overwrite") from error
        if self.manifest.complete and rows != self.manifest.counts.rows:
            raise CliplineError(
                f"{self.folder}: {rows:,} rows where manifest.json says {self.manifest.counts.rows:,}: parts "
                "are missing or foreign. Mend: copy the folder again, or embed again with --overwrite"
            )
