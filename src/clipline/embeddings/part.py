"""The parquet files of an embeddings folder: their columns, and how they are written and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipline.embeddings.manifest import PARTS
from clipline.errors import CliplineError, first_line
from clipline.utils.files import atomic

Dtype = Literal["float16", "float32"]
ERROR_SCHEMA = pa.schema([("path", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
ROW_GROUP = 20_000  # what a reader must hold at once
FACTS = ["path", "bytes", "mtime", "sha256", "width", "height"]


class Row(NamedTuple):
    """All of a row but its vector. bytes: the file's size. mtime: microseconds since 1970, or None.

    width and height: of the upright image, in pixels.
    """

    path: str
    bytes: int
    mtime: int | None
    sha256: str
    width: int
    height: int


def part_schema(dim: int, dtype: Dtype) -> pa.Schema:
    """The columns of a part."""
    element = pa.float16() if dtype == "float16" else pa.float32()
    kinds = [pa.string(), pa.int64(), pa.timestamp("us", tz="UTC"), pa.string(), pa.int32(), pa.int32()]
    return pa.schema([*zip(FACTS, kinds, strict=True), ("embedding", pa.list_(element, dim))])


def part_path(folder: Path, number: int) -> Path:
    """Where part `number` of a folder is."""
    return folder / PARTS.replace("*", f"{number:05d}")


def write_part(path: Path, rows: Iterable[Row], vectors: np.ndarray) -> None:
    """Write a part so that it is there whole or not at all. vectors: [n, dim]. Raises CliplineError."""
    schema = part_schema(vectors.shape[1], vectors.dtype.name)
    columns = list(zip(*rows, strict=True)) or [()] * len(FACTS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=False)]
    flat = pa.array(np.ascontiguousarray(vectors).ravel(), schema.field("embedding").type.value_type)
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type))
    write_table(path, pa.Table.from_arrays(arrays, schema=schema))


def write_table(path: Path, table: pa.Table) -> None:
    """Write any table of this folder, atomically. Raises CliplineError."""
    with disk(path), atomic(path) as file:
        # Nothing repeats, so dictionaries would only cost; nor do limits of vector elements help anyone.
        pq.write_table(
            table,
            file,
            compression="zstd",
            use_dictionary=False,
            # A byte that the disk changed in a vector would else be an embedding like any other.
            write_page_checksum=True,
            row_group_size=ROW_GROUP,
            write_statistics=[name for name in ("path", "bytes", "mtime") if name in table.column_names],
        )


@contextmanager
def open_part(
    path: Path, dim: int, dtype: Dtype, fix: str = "embed again with --overwrite"
) -> Iterator[pq.ParquetFile]:
    """A part to read from, while checksums of its pages are compared.

    Raises CliplineError where it is damaged, be it found now or in the block, or has other columns.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(part_schema(dim, dtype)):
                raise ValueError(f"its columns are not those of {dim} {dtype}")
            yield file
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CliplineError(f"{path}: damaged ({first_line(error)}). Fix: {fix}") from error


def read_part(path: Path, dim: int, dtype: Dtype, columns: list[str] | None = None) -> pa.Table:
    """A part, or some of its columns. Raises CliplineError where it is damaged, or has other columns."""
    # Not read_table, which imports pandas where it is installed: half a second.
    with open_part(path, dim, dtype, "delete it and run again: only its images are lost") as file:
        return file.read(columns, use_threads=False)


def read_rows(table: pa.Table) -> list[Row]:
    """The rows of a part that was read with all of FACTS."""
    columns = [table.column(name) for name in FACTS]
    columns[2] = columns[2].cast(pa.int64())
    return [Row(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]


def read_vectors(column: pa.Array) -> np.ndarray:
    """The column of embeddings -> [n, dim] in the stored type, without a copy.

    Through the buffer, as pyarrow's own conversion imports pandas, which takes half a second.
    """
    dtype = np.dtype("float16" if column.type.value_type == pa.float16() else "float32")
    dim = column.type.list_size
    flat = np.frombuffer(column.values.buffers()[1], dtype)
    return flat[column.offset * dim : (column.offset + len(column)) * dim].reshape(-1, dim)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Give the system's errors words. Raises CliplineError where it refuses to write `path`."""
    try:
        yield
    except OSError as error:
        raise CliplineError(
            f"{path}: cannot write: {error.strerror or error}. What was written is whole. Fix: free or choose "
            "another place for --out, then run again: it goes on from there"
        ) from error
