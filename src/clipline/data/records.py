"""Read text tables (CSV and the like) with the line numbers that error messages need."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from clipline.errors import CliplineError


def decode(data: bytes, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark. Raises CliplineError with the line of the first bad byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CliplineError(
            f"{where}: line {line}: not UTF-8 (byte 0x{data[error.start]:02x}). Fix: save the table as UTF-8"
        ) from None


def records(
    text: str, where: str, delimiter: str = ",", *, keep_blank: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of each row; `line` is where the row starts, from 1.

    Quotes are read as in CSV, but are plain letters between `|`. Empty lines are skipped, and so are rows whose fields
    hold only spaces, unless `keep_blank`. Raises CliplineError with the line where a quoted field does not end.
    """
    quoting = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise CliplineError(f"{where}: line {line}: unreadable: {error} (an open quotation mark?)") from None
        if fields is None:
            return
        if any(field.strip() for field in fields) or (keep_blank and fields):
            yield line, fields
        line = reader.line_num + 1
