"""File names as text: a name's invalid bytes become %XX, in a way that leads back to the very same file.

Parquet and JSON hold UTF-8 alone, file systems hold any bytes. Only what could be taken for such an escape is
escaped itself, so that `100%.jpg` and `My%20photo.jpg` stay as they are.
"""

from __future__ import annotations

import os
import re

_AMBIGUOUS = re.compile(r"%(?=25|[89A-F][0-9A-F])")
_ESCAPE = re.compile(rb"%(25|[89A-F][0-9A-F])")


def to_text(name: str) -> str:
    """A path as Python's os functions give it (invalid bytes as surrogates) -> valid text, `/` inside."""
    escaped = _AMBIGUOUS.sub("%25", name.replace(os.sep, "/"))
    return "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in escaped)


def printable(name: str) -> str:
    """For people, with ? for each byte that is no text: no terminal, picture or header can hold those."""
    return name.encode(errors="replace").decode()


def to_name(text: str) -> str:
    """What `to_text` made -> the path that os functions open."""
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode())
    return os.fsdecode(raw).replace("/", os.sep)
