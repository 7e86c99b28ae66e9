"""Read text tables (CSV and the like) with the line numbers that error messages need."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipline.errors import CliplineError

QUOTATION = (
    "Fix: a text that begins with a quotation mark is written between two more, with those inside it doubled: "
    '"""Stop!"" says the sign"'
)


def decode(data: bytes, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark. Raises CliplineError with the line of the first bad byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CliplineError(
            f"{where}: line {line}: not UTF-8 (byte 0x{data[error.start]:02x}). Fix: save the table as UTF-8"
        ) from None


class Record(NamedTuple):
    """One row of a table. line: where it starts, from 1. text: the row as the file has it."""

    line: int
    fields: list[str]
    text: str


def records(text: str, where: str, delimiter: str = ",", *, keep_blank: bool = False) -> Iterator[Record]:
    """Yield the rows of a table.

    Quotes are read as in CSV, but are plain letters between `|`. Empty lines are skipped, and so are rows whose fields
    hold only spaces, unless `keep_blank`. Raises CliplineError with the line where a quoted field does not end.
    """
    # A cell may hold a whole image; the text is in memory as it is.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    quoting = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    read: list[str] = []  # the lines of the current row
    lines = (read.append(line) or line for line in io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise CliplineError(f"{where}: line {line}: unreadable: {error}. {QUOTATION}") from None
        if fields is None:
            return
        if any(field.strip() for field in fields) or (keep_blank and fields):
            yield Record(line, fields, "".join(read))
        read.clear()
        line = reader.line_num + 1


class SurplusFields:
    """Gives the fields that rows have too many back to the last column, whose text holds unquoted delimiters.

    Only if other rows fit the header: where each row has a field too many, that is a column without a name, or a
    delimiter at the end of each line.

    columns: the header. captions: the indices of the columns of captions. lines: those of the repaired rows.
    """

    def __init__(self, columns: Sequence[str], captions: list[int], delimiter: str, where: str) -> None:
        self.lines: list[int] = []
        self._width, self._captions, self._delimiter, self._where = len(columns), captions, delimiter, where
        self._some_fit = False

    def join(self, record: Record) -> list[str]:
        """The fields of a row, at most as many as the header has. Raises CliplineError where it is not clear how."""
        fields, last = record.fields, self._width - 1
        if len(fields) <= self._width:
            self._some_fit |= len(fields) == self._width
            return fields
        fault = f"{self._where}: line {record.line}: {len(fields)} fields, but the header has {self._width}. "
        if self._captions != [last]:
            raise CliplineError(f"{fault}Fix: put texts that hold `{self._delimiter}` in quotation marks")
        text = self._delimiter.join(fields[last:])
        if not record.text.rstrip("\r\n").endswith(text):  # some were quoted, as if the caption ended there
            raise CliplineError(f"{fault}{QUOTATION}")
        self.lines.append(record.line)
        return [*fields[:last], text.rstrip(f"{self._delimiter} ")]

    def check(self) -> None:
        """After the last row: raise CliplineError where none had as many fields as the header."""
        if self.lines and not self._some_fit:
            raise CliplineError(
                f"{self._where}: line {self.lines[0]} and all others have more fields than the header's {self._width}. "
                f"Fix: name every column in the header, remove `{self._delimiter}` from the ends of the lines, or put "
                f"texts that hold `{self._delimiter}` in quotation marks"
            )
