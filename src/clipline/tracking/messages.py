"""What tracking says to people: one error type, and single lines on stderr."""

from __future__ import annotations

import sqlite3
import sys

from clipline.errors import CliplineError, redact


class TrackingError(CliplineError):
    """The tracking store cannot be used, or was given something that it cannot hold."""


class StoreUnavailableError(TrackingError):
    """The tracking server does not answer, or is in trouble: later it may be well again."""


def say(message: str) -> None:
    """One line on stderr, where the stages' own output goes."""
    print(redact(f"tracking: {message}"), file=sys.stderr, flush=True)  # noqa: T201


def reason(error: BaseException) -> str:
    """The first line of an error, cut, without secrets: it also becomes a tag."""
    lines = redact(str(error)).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"


def cause(error: BaseException) -> str:
    """The system's or the database's own words, if they are underneath: MLflow wraps a page around them."""
    below: BaseException | None = error
    found = error
    while below:
        found = below if isinstance(below, OSError | sqlite3.Error) else found
        below = below.__cause__ or below.__context__
    text = getattr(found, "strerror", None) or reason(found)
    file = getattr(found, "filename", None)
    return f"{text}: {file}" if file else text


def is_final(error: Exception) -> bool:
    """Whether sending again cannot help: the store understood and refused, or a file to send is gone."""
    if isinstance(error, FileNotFoundError):
        return True
    if hasattr(error, "get_http_status_code"):
        status = error.get_http_status_code()
    else:
        status = getattr(getattr(error, "response", None), "status_code", 500)
    return 400 <= status < 500 and status not in (408, 429)
