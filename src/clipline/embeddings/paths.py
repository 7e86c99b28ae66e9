"""File names as valid text: bytes that are not UTF-8 become %XX, and can be turned back into the same name.

Parquet and JSON hold UTF-8 only, file systems hold any bytes. A `%` is escaped only where it would read as such an
escape, so that `100%.jpg` and `My%20photo.jpg` stay as they are.
"""

from __future__ import annotations

import os
import re

_AMBIGUOUS = re.compile(r"%(?=25|[89A-F][0-9A-F])")
_ESCAPE = re.compile(rb"%(25|[89A-F][0-9A-F])")


def to_text(name: str) -> str:
    """A path as Python's os functions return it (invalid bytes as surrogates) -> valid text with `/` as separator."""
    escaped = _AMBIGUOUS.sub("%25", name.replace(os.sep, "/"))
    return "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in escaped)


def to_name(text: str) -> str:
    """The inverse of `to_text`: a path that os functions open."""
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode())
    return os.fsdecode(raw).replace("/", os.sep)
