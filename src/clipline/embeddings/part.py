"""Read and write the parts of an embeddings folder, which are parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipline.embeddings.manifest import PARTS, part_path
from clipline.errors import CliplineError, first_line
from clipline.utils.files import atomic
from clipline.utils.remedies import why

Dtype = Literal["float16", "float32"]
ERROR_SCHEMA = pa.schema([("path", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
ROW_GROUP = 20_000  # rows that a reader must hold in memory
COLUMNS = ["path", "bytes", "mtime", "sha256", "width", "height"]


class Row(NamedTuple):
    """A row without its vector. bytes: the file's size. mtime: microseconds since 1970, or None.

    width, height: of the upright image, in pixels.
    """

    path: str
    bytes: int
    mtime: int | None
    sha256: str
    width: int
    height: int


def part_schema(dim: int, dtype: Dtype) -> pa.Schema:
    """The columns of a part: those of a Row, then `embedding`, a list of `dim` floats."""
    element = pa.float16() if dtype == "float16" else pa.float32()
    kinds = [pa.string(), pa.int64(), pa.timestamp("us", tz="UTC"), pa.string(), pa.int32(), pa.int32()]
    return pa.schema([*zip(COLUMNS, kinds, strict=True), ("embedding", pa.list_(element, dim))])


def part_name(number: int) -> str:
    """The name of part `number`."""
    return PARTS.replace("*", f"{number:05d}")


def write_part(folder: Path, name: str, rows: Iterable[Row], vectors: np.ndarray) -> None:
    """Write a part atomically. vectors: [n, dim], float16 or float32. Raises CliplineError."""
    schema = part_schema(vectors.shape[1], vectors.dtype.name)
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=False)]
    flat = pa.array(np.ascontiguousarray(vectors).ravel(), schema.field("embedding").type.value_type)
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type))
    path = part_path(folder, name)
    with disk(path):
        path.parent.mkdir(exist_ok=True)
    write_table(path, pa.Table.from_arrays(arrays, schema=schema), folder)


def write_table(path: Path, table: pa.Table, folder: Path) -> None:
    """Write a table of the embeddings folder `folder` atomically. Raises CliplineError."""
    # The temporary file is in `folder`: polars refuses all of `data` for a file with another suffix.
    with disk(path), atomic(path, folder) as file:
        # No values repeat, so dictionaries would only cost; statistics of vector elements are of no use.
        pq.write_table(
            table,
            file,
            compression="zstd",
            use_dictionary=False,
            # Without it a byte of a vector that the disk changed would go unnoticed.
            write_page_checksum=True,
            row_group_size=ROW_GROUP,
            write_statistics=[name for name in ("path", "bytes", "mtime") if name in table.column_names],
        )


@contextmanager
def open_part(
    folder: Path, name: str, dim: int, dtype: Dtype, fix: str = "embed again with --overwrite"
) -> Iterator[pq.ParquetFile]:
    """Open a part for reading, which compares the checksums of its pages.

    Raises CliplineError where it has other columns or is damaged, also if the damage is found inside the block.
    """
    path = part_path(folder, name)
    try:
        try:
            part = pq.ParquetFile(path, page_checksum_verification=True)
        except FileNotFoundError:
            path = part_path(folder, name)  # it may just have been moved
            part = pq.ParquetFile(path, page_checksum_verification=True)
        with part as file:
            if not file.schema_arrow.equals(part_schema(dim, dtype)):
                raise ValueError(f"its columns are not those of {dim} {dtype}")
            yield file
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CliplineError(f"{path}: damaged ({first_line(error)}). Fix: {fix}") from error


def read_part(folder: Path, name: str, dim: int, dtype: Dtype, columns: list[str] | None = None) -> pa.Table:
    """A part, or some of its columns. Raises CliplineError as `open_part` does."""
    # read_table would import pandas where it is installed, which takes half a second.
    with open_part(folder, name, dim, dtype, "delete it and run again: only its images are lost") as file:
        return file.read(columns, use_threads=False)


def read_rows(table: pa.Table) -> list[Row]:
    """The rows of a part, read with all of COLUMNS."""
    columns = [table.column(name) for name in COLUMNS]
    columns[2] = columns[2].cast(pa.int64())
    return [Row(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]


def read_vectors(column: pa.Array) -> np.ndarray:
    """The column of embeddings -> [n, dim] in the stored dtype, without a copy.

    It reads the buffer: pyarrow's own conversion imports pandas, which takes half a second.
    """
    dtype = np.dtype("float16" if column.type.value_type == pa.float16() else "float32")
    dim = column.type.list_size
    flat = np.frombuffer(column.values.buffers()[1], dtype)
    return flat[column.offset * dim : (column.offset + len(column)) * dim].reshape(-1, dim)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is written into a CliplineError that says what to do."""
    try:
        yield
    except OSError as error:
        raise CliplineError(
            f"{path}: cannot be written: {why(error)}; then run again: what was written is "
            "whole, and it continues from there"
        ) from error
