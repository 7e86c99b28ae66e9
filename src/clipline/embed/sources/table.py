"""Images that a column of a table names by path: parquet, CSV or TSV, read in batches."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipline.embed.item import Failure, FileItem
from clipline.embed.sources.listing import Paths, check_file
from clipline.embed.sources.patterns import Patterns
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError, first_line

SUFFIXES = (".parquet", ".csv", ".tsv")
# Names of the column that is taken without --column, if the table has just one of them.
USUAL_COLUMNS = ("path", "file", "image", "filepath", "file_name", "filename", "image_path")
DELIMITERS = (",", ";", "\t", "|")
BATCH_ROWS = 8192


class Table:
    """The files that one column names.

    column: None takes the only column, or the only one with a usual name. root: the folder that relative paths start
    from; by default the table's folder. Null and blank cells are skipped, a file named twice is yielded once; a row
    that cannot be read is a Failure. A parquet column of bytes, and any CSV, may hold names that are not UTF-8. Memory:
    one batch, and about 100 bytes per path to recognise repeated ones. Raises UsageError where the table has no such
    column, with the names of its columns; iterating raises CliplineError where it cannot be read to its end.
    """

    def __init__(
        self,
        file: Path,
        column: str | None = None,
        root: Path | None = None,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        check_file(file, "table")
        self._table = _Parquet(file, column) if file.suffix.lower() == ".parquet" else _Csv(file, column)
        self._paths = Paths(str(file), root or file.parent, Patterns(include, exclude))
        self.root = self._paths.root

    def __iter__(self) -> Iterator[FileItem | Failure]:
        return self._paths.items(self._table.names())


class _Parquet:
    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{file}: not a parquet file that can be read: {first_line(error)}") from None
        self._column = _pick_column(column, schema.names, file)
        kind = schema.field(self._column).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(check(value) for check in _TEXT):
            raise UsageError(f"{file}: column `{self._column}` holds {kind}, where paths are text. Fix: --column")

    def names(self) -> Iterator[str]:
        """The paths. Raises OSError, also for damaged pages."""
        try:
            with pq.ParquetFile(self._file) as parquet:
                for batch in parquet.iter_batches(BATCH_ROWS, columns=[self._column]):
                    for value in batch.column(self._column).to_pylist():
                        yield os.fsdecode(value or "")
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise OSError(first_line(error)) from error


_TEXT = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
)


class _Csv:
    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file
        with file.open("rb") as stream:
            if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise UsageError(f"{file}: is UTF-16. Fix: save the table as UTF-8")
        headers = {mark: self._header(mark) for mark in (["\t"] if file.suffix.lower() == ".tsv" else DELIMITERS)}
        self._delimiter = max(headers, key=lambda mark: (column in headers[mark], len(headers[mark])))
        columns = headers[self._delimiter]
        self._column = columns.index(_pick_column(column, columns, file))
        self._width = len(columns)

    def names(self) -> Iterator[str | Failure]:
        for line, row in itertools.islice(self._rows(self._delimiter), 1, None):
            if isinstance(row, csv.Error):
                yield self._failure(line, str(row))
            elif row and len(row) != self._width:
                yield self._failure(line, f"{len(row)} fields, where the header has {self._width}")
            else:
                yield row[self._column] if row else ""

    def _header(self, delimiter: str) -> list[str]:
        _, first = next(self._rows(delimiter), (0, []))
        return [] if isinstance(first, csv.Error) else [name.strip() for name in first]

    def _rows(self, delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
        """Each row, or the error in it, with the number of the line where it ends."""
        with self._file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            while True:
                try:
                    row = next(reader, None)
                except csv.Error as error:
                    row = error
                if row is None:
                    return
                yield reader.line_num, row

    def _failure(self, line: int, reason: str) -> Failure:
        return Failure(to_text(str(self._file)), "scan", f"line {line:,}: {reason}")


def _pick_column(column: str | None, columns: Sequence[str], file: Path) -> str:
    """The name of the column that holds the paths. Raises UsageError with the names of all columns."""
    available = ", ".join(f"`{name}`" for name in columns) or "none"
    if column is None:
        usual = columns if len(columns) == 1 else [name for name in columns if name in USUAL_COLUMNS]
        if len(usual) != 1:
            raise UsageError(
                f"{file}: which column holds the paths? It has: {available}. Fix: --column with one of them"
            )
        return usual[0]
    if columns.count(column) != 1:
        what = "more than one" if column in columns else "no"
        raise UsageError(f"{file}: {what} column `{column}`; it has: {available}. Fix: --column with one of them")
    return column
