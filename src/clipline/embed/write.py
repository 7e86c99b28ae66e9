"""Write embeddings as parquet parts, each complete under its name or not there, and what failed beside them.

A part is written under a temporary name, synced and renamed, so a killed run leaves whole parts; the manifest
comes last and says that the folder is finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipline.atomic import atomic
from clipline.embed.decode import Decoded
from clipline.embed.manifest import ERRORS, MANIFEST, PARTS, Counts, Manifest
from clipline.embed.scan import Failure
from clipline.errors import CliplineError

ERROR_SCHEMA = pa.schema([("path", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
ERROR_ROWS = 1000
ROW_GROUP = 20_000  # what a reader must hold at once


def part_schema(dim: int, dtype: Literal["float16", "float32"]) -> pa.Schema:
    """The columns of a part. bytes: the file's size. width and height: of the upright image, in pixels."""
    element = pa.float16() if dtype == "float16" else pa.float32()
    return pa.schema(
        [
            ("path", pa.string()),
            ("bytes", pa.int64()),
            ("mtime", pa.timestamp("us", tz="UTC")),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("embedding", pa.list_(element, dim)),
        ]
    )


class Writer:
    """Takes rows and failures one by one; a context manager, so that an interrupted part leaves nothing.

    stable: leave `mtime` empty, so that the same images and model give the same bytes on every machine. Every
    method raises CliplineError where the disk is full or read-only.
    """

    def __init__(
        self, folder: Path, dim: int, dtype: Literal["float16", "float32"], part_rows: int, stable: bool
    ) -> None:
        self._folder, self._dtype, self._part_rows, self._stable = folder, dtype, part_rows, stable
        self._schema = part_schema(dim, dtype)
        self._rows: list[tuple[Any, ...]] = []
        self._vectors: list[np.ndarray] = []
        self._failures: list[Failure] = []
        self.rows = self.errors = self.parts = 0
        self._stack = ExitStack()

    def __enter__(self) -> Writer:
        with _disk(self._folder / ERRORS):
            file = self._stack.enter_context(atomic(self._folder / ERRORS))
            self._error_file = self._stack.enter_context(pq.ParquetWriter(file, ERROR_SCHEMA))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _disk(self._folder / ERRORS):
            self._stack.__exit__(kind, error, trace)

    def add(self, images: list[Decoded], embeddings: np.ndarray) -> None:
        """Rows in the order of the scan. embeddings: float32 [len(images), dim]."""
        for image in images:
            mtime = None if self._stable else image.mtime_ns // 1000
            row = (image.path, image.bytes, mtime, image.sha256, image.width, image.height)
            self._rows.append(row)  # not the image: its pixels would fill the memory
        self._vectors.append(embeddings.astype(self._dtype))
        self.rows += len(images)
        while len(self._rows) >= self._part_rows:
            self._write_part(self._part_rows)

    def fail(self, failure: Failure) -> None:
        """One input that has no row."""
        self._failures.append(failure)
        self.errors += 1
        if len(self._failures) >= ERROR_ROWS:
            self._write_errors()

    def finish(self, model_id: str, variant: str, dim: int, root: str, model: str) -> Manifest:
        """Write what is left, then the manifest. Without any row there is one empty part: tables need one."""
        if self._rows or not self.parts:
            self._write_part(len(self._rows))
        if self._failures:
            self._write_errors()
        with _disk(self._folder / ERRORS):
            self._stack.close()
        counts = Counts(images=self.rows + self.errors, rows=self.rows, errors=self.errors, parts=self.parts)
        manifest = Manifest(
            model_id=model_id,
            variant=variant,
            dim=dim,
            dtype=self._dtype,
            counts=counts,
            root=root,
            model=model,
        )
        path = self._folder / MANIFEST
        with _disk(path), atomic(path) as file:
            file.write(json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False).encode() + b"\n")
        return manifest

    def _write_part(self, count: int) -> None:
        rows, self._rows = self._rows[:count], self._rows[count:]
        vectors = np.concatenate(self._vectors) if self._vectors else np.empty((0, 0), self._dtype)
        part, rest = vectors[:count], vectors[count:]
        self._vectors = [rest.copy()] if len(rest) else []
        columns: list[Any] = list(zip(*rows, strict=True)) or [[] for _ in self._schema.names[:-1]]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=False)]
        flat = pa.array(part.ravel(), self._schema.field("embedding").type.value_type)
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field("embedding").type))
        path = self._folder / PARTS.replace("*", f"{self.parts:05d}")
        with _disk(path), atomic(path) as file:
            # Nothing repeats, so dictionaries would only cost; nor do limits of vector elements help anyone.
            pq.write_table(
                pa.Table.from_arrays(arrays, schema=self._schema),
                file,
                compression="zstd",
                use_dictionary=False,
                row_group_size=ROW_GROUP,
                write_statistics=["path", "bytes", "mtime"],
            )
        self.parts += 1

    def _write_errors(self) -> None:
        columns = {name: [getattr(each, name) for each in self._failures] for name in ERROR_SCHEMA.names}
        with _disk(self._folder / ERRORS):
            self._error_file.write_table(pa.table(columns, schema=ERROR_SCHEMA))
        self._failures = []


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CliplineError(
            f"{path}: cannot write: {error.strerror or error}. Mend: free or choose another place for --out, "
            "then run again"
        ) from error
