"""The lines of a text file that a person wrote."""

from __future__ import annotations

import sys
from pathlib import Path

from clipline.errors import UsageError


def read_lines(file: Path, what: str) -> list[str]:
    """The lines of a text file that are not empty; `-` is standard input. what: they are, for messages.

    Raises UsageError where it cannot be read or is no UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        # utf-8-sig: Windows' editors put a mark in front.
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not a text in UTF-8. Mend: save the {what} as UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
