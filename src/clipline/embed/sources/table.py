"""Images in a column of a table, or files that it names by path: parquet, CSV or TSV, read in batches."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipline.embed.item import CellItem, Failure, FileItem
from clipline.embed.sources.listing import Paths, check_file
from clipline.embed.sources.patterns import Patterns
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError, first_few, first_line, shorten
from clipline.utils.cells import LONGEST_PATH, image_or_path

SUFFIXES = (".parquet", ".csv", ".tsv")
# Names of the column that is taken without --column, if the table has just one of them.
USUAL_COLUMNS = ("path", "file", "image", "img", "filepath", "file_name", "filename", "image_path")
DELIMITERS = (",", ";", "\t", "|")
ROWS = 64  # of a parquet file in memory: each may hold a photo
BUFFER = 1 << 20  # bytes of a column read at once: a row group may hold a whole dataset
MAX_FIELD = 1 << 26  # characters of a field in CSV, which may be a photo in base64


class Table:
    """The images that one column holds or names, in any writing that `cells.image_or_path` knows.

    column: None takes the only column, or the only one with a usual name. root: the folder that relative paths start
    from; by default the table's folder. Null and blank cells are skipped, a file named twice is yielded once; a row
    that cannot be read, or is neither an image nor a path, is a Failure. An image in row 12, counted from 0, has the
    path `table.parquet/12`, and `table.parquet/12/cat.jpg` where the hub's {bytes, path} names it. A parquet column of
    bytes, and any CSV, may hold names that are not UTF-8. holds_images: whether the first cell holds an image. Memory:
    ROWS rows, and about 100 bytes per path to recognise repeated ones. Raises UsageError where the table has no such
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
        self._name = to_text(file.name)
        self._table = _Parquet(file, column) if file.suffix.lower() == ".parquet" else _Csv(file, column)
        self._paths = Paths(str(file), root or file.parent, Patterns(include, exclude))
        self.root = self._paths.root
        self.holds_images = False
        with suppress(OSError):  # raised again while it is iterated
            cells = (cell for cell in self._table.cells() if not isinstance(cell, Failure))
            first = next((found for found in map(image_or_path, cells) if found is not None), None)
            self.holds_images = isinstance(first, bytes)

    def __iter__(self) -> Iterator[FileItem | CellItem | Failure]:
        return self._paths.items(itertools.starmap(self._entry, enumerate(self._table.cells())))

    def _entry(self, row: int, cell: Any) -> str | CellItem | Failure:
        """The image in a cell, or the path that it names, which is empty where nothing is in it."""
        if isinstance(cell, Failure):
            return cell
        found, path = image_or_path(cell), f"{self._name}/{row}"
        if isinstance(found, bytes):
            name = PurePosixPath(str(cell.get("path") or "")).name if isinstance(cell, dict) else ""
            return CellItem(f"{path}/{to_text(name)}" if name.isprintable() and name else path, found)
        if found and ("\0" in found or len(found) > LONGEST_PATH):
            return Failure(path, "scan", f"neither an image nor a path: {shorten(to_text(found))}")
        return found or ""


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
        named = {field.name for field in value} & {"bytes", "path"} if pa.types.is_struct(value) else set()
        if not named and not any(check(value) for check in _TEXT):
            raise UsageError(
                f"{file}: column `{shorten(self._column)}` holds {shorten(kind)}, where images are bytes, text or "
                "{bytes, path}, and paths are text. Fix: --column"
            )

    def cells(self) -> Iterator[Any]:
        """The cells: text, bytes, dicts or None. Raises OSError, also for damaged pages."""
        try:
            with pq.ParquetFile(self._file, buffer_size=BUFFER, pre_buffer=False) as parquet:
                for batch in parquet.iter_batches(ROWS, columns=[self._column], use_threads=False):
                    yield from batch.column(self._column).to_pylist()
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise OSError(first_line(error)) from error


_TEXT = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
)


class _Csv:
    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
        with file.open("rb") as stream:
            if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise UsageError(f"{file}: is UTF-16. Fix: save the table as UTF-8")
        headers = {mark: self._header(mark) for mark in (["\t"] if file.suffix.lower() == ".tsv" else DELIMITERS)}
        self._delimiter = max(headers, key=lambda mark: (column in headers[mark], len(headers[mark])))
        columns = headers[self._delimiter]
        self._column = columns.index(_pick_column(column, columns, file))
        self._width = len(columns)

    def cells(self) -> Iterator[str | Failure]:
        """The cells, and a Failure for each row without one; blank lines are no rows. Raises OSError."""
        for line, row in itertools.islice(self._rows(self._delimiter), 1, None):
            if isinstance(row, csv.Error):
                yield self._failure(line, str(row))
            elif row and len(row) != self._width:
                yield self._failure(line, f"{len(row)} fields, where the header has {self._width}")
            elif row:
                yield row[self._column]

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
    """The name of the column that holds the images or their paths. Raises UsageError with the names of all columns."""
    available = first_few([f"`{shorten(name)}`" for name in columns], 20) or "none"
    if column is None:
        usual = columns if len(columns) == 1 else [name for name in columns if name in USUAL_COLUMNS]
        if len(usual) != 1:
            raise UsageError(
                f"{file}: which column holds the images or their paths? It has: {available}. Fix: --column with one "
                "of them"
            )
        return usual[0]
    if columns.count(column) != 1:
        what = "more than one" if column in columns else "no"
        raise UsageError(
            f"{file}: {what} column `{shorten(column)}`; it has: {available}. Fix: --column with one of them"
        )
    return column
