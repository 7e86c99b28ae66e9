"""Errors that a user can fix, each with the exit code that the command line promises.

Whatever a person may do wrong (a bad key, a truncated archive, a missing extra) raises one of these with a
message that says what, where and how to fix it; the entry points print it without a traceback.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType

# What torch, onnxruntime and the system say in errors that are no MemoryError.
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "failed to allocate")
_NO_MEMORY += ("can't start new thread", "bad allocation")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _escaped(character: re.Match[str]) -> str:
    return f"\\x{ord(character[0]):02x}"


class CliplineError(Exception):
    """The work could not be done: exit code 1.

    The message loses whatever secrets a library put into it, and shows control characters, which names of files may
    hold, as \\x1b and the like: a terminal would obey them.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_CONTROL.sub(_escaped, redact(str(message))))


class UsageError(CliplineError):
    """Bad usage or configuration, found before any work: exit code 2."""

    exit_code = 2


class TooManyErrorsError(CliplineError):
    """Done, but more inputs failed than were allowed: exit code 3."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """What a library says, at most 200 letters without the pages that may follow; the error's kind where nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# The most characters of someone's data (a cell, a name, a caption) that a message quotes.
QUOTED = 100


def shorten(data: object) -> str:
    """Data as a message quotes it: on one line, at most QUOTED characters, then how many there are."""
    text = str(data)
    more = f"… ({len(text):,} characters)" if len(text) > QUOTED else ""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", _escaped, text[:QUOTED]) + more


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory's end, whoever says so."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def missing_extra(package: str, extra: str) -> UsageError:
    """The error for a package that only an extra installs."""
    return UsageError(f"{package} is not installed. Fix: pip install 'clipline[{extra}]'")


SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "KAGGLE_API_TOKEN",
    "KAGGLE_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
# A shorter one may stand in any text by chance, and would protect nothing.
SHORTEST = 6
# user:password@ behind ://; a password may hold slashes, as AWS's keys do, and is told from a port by not being one.
_USER = re.compile(r"(?<=://)(?:[^\s/@:'\"]*:(?!\d+(?:[/\s'\",.:;)?#]|$))[^\s@'\"]*@|[^\s/@'\"?#]*@)+")
_VALUE = re.compile(r"([?&#;][\w.\-%\[\]]+=)[^\s&#;'\"<>)]+")


def redact(text: str) -> str:
    """`text` without user names and passwords in URLs, values in queries, and the secrets of this environment."""
    for name in SECRETS:
        secret = os.environ.get(name, "").strip()
        if len(secret) >= SHORTEST:
            text = text.replace(secret, "…")
    return _VALUE.sub(r"\1…", _USER.sub("", text))


def address(url: str) -> str:
    """A URL as it may be written down: without user, password and, on the web, query."""
    plain = _USER.sub("", url)
    return re.split(r"[?#]", plain, maxsplit=1)[0] if plain.startswith(("http://", "https://")) else plain


def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For sys.excepthook: the usual traceback, redacted."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
