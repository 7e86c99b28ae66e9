"""Tracking's error types, its lines on stderr, and the one line that an error of MLflow's comes down to."""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path

from clipline.errors import CliplineError, escape, redact
from clipline.utils.remedies import remedy


class TrackingError(CliplineError):
    """The tracking store cannot be used, or was given something that it cannot hold."""


class StoreUnavailableError(TrackingError):
    """The tracking server does not answer or fails, or the file is locked: a later attempt may succeed."""


def say(message: str) -> None:
    """Print one line on stderr, without secrets."""
    print(escape(redact(f"tracking: {message}")), file=sys.stderr, flush=True)  # noqa: T201


def reason(error: BaseException) -> str:
    """The first line of an error, at most 300 characters, without secrets: it also becomes a tag."""
    lines = redact(str(error)).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"


def cause(error: BaseException) -> str:
    """The message of the system or the database below an error, where there is one: MLflow's own are a page long."""
    below: BaseException | None = error
    root = error
    while below:
        root = below if isinstance(below, OSError | sqlite3.Error) else root
        below = below.__cause__ or below.__context__
    text = getattr(root, "strerror", None) or reason(root)
    file = getattr(root, "filename", None)
    return f"{text}: {file}" if file else _other_schema(text) or text.rstrip(".")


def _other_schema(text: str) -> str | None:
    """MLflow calls the schema of a newer one out of date, too, and would have it upgraded."""
    versions = re.search(r"out-of-date database schema \(found version (\w+)", text)
    if not versions:
        return None
    import mlflow

    known = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    age = "an older" if list(known.glob(f"{versions[1]}_*.py")) else "a newer"
    return f"its schema ({versions[1]}) is of {age} MLflow than this one"


def with_fix(error: BaseException) -> str:
    """The cause of an error of the store's, and what to do about it, in one line."""
    what = cause(error)
    otherwise = "correct MLFLOW_TRACKING_URI, or unset it to track in mlflow.db"
    return f"{what}. Fix: {remedy(error, otherwise, what)}"


def is_final(error: Exception) -> bool:
    """Whether sending again cannot help: the store understood and refused, or a file to send is gone."""
    if isinstance(error, FileNotFoundError):
        return True
    if hasattr(error, "get_http_status_code"):
        status = error.get_http_status_code()
    else:
        status = getattr(getattr(error, "response", None), "status_code", 500)
    return 400 <= status < 500 and status not in (408, 429)
