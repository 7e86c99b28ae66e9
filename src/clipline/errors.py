"""Errors that a user can fix, each with the exit code that the command line promises.

A bad key, a truncated archive or a missing extra raises one of these, with a message that says what is wrong, where,
and how to fix it. The entry points print the message without a traceback.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Collection
from types import TracebackType

# Words by which torch, onnxruntime and the operating system report a lack of memory in other errors than MemoryError.
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "failed to allocate")
_NO_MEMORY += ("can't start new thread", "bad allocation")
# Control characters, what else ends a line for some programs, and what reverses the order of letters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NO_TEXT = re.compile(r"[\ud800-\udfff]")


def escape(text: object) -> str:
    """The one rule for printed lines, as names may hold anything: control characters become `\\n`, `\\x1b` and so on.

    No name then ends a line, begins a column or is obeyed by a terminal. `--json`, CSV and `--print0` are exact.
    """
    return _CONTROL.sub(_escaped, str(text))


def printable(text: object) -> str:
    """The same for what cannot hold bytes that are no text (tables, pictures, headers, messages): `\\xe9`."""
    return _NO_TEXT.sub(_escaped, escape(text))


def _escaped(character: re.Match[str]) -> str:
    byte = ord(character[0]) - 0xDC00  # of a file's name that is no text
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character[0].encode("unicode_escape").decode()


class CliplineError(Exception):
    """The work could not be done: exit code 1.

    lines: of the message, mostly one. Secrets are removed from them, and they are made `printable`.
    """

    exit_code = 1

    def __init__(self, *lines: object) -> None:
        super().__init__(*(printable(redact(str(line))) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class UsageError(CliplineError):
    """Bad usage or configuration, found before any work: exit code 2."""

    exit_code = 2


class KindError(UsageError, TypeError):
    """A value of a type that cannot be used where it stands."""


class TooManyErrorsError(CliplineError):
    """The work was done, but more inputs failed than were allowed: exit code 3."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; the name of its class where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# The most characters of someone's data (a cell, a name, a caption) that a message quotes.
QUOTED = 100


def shorten(data: object) -> str:
    """Data as a message quotes it: on one line, at most QUOTED characters, then how many there are."""
    text = str(data)
    more = f"… ({len(text):,} characters)" if len(text) > QUOTED else ""
    return printable(text[:QUOTED]) + more


def first_few(names: Collection[str], limit: int = 5) -> str:
    """The first names, at most `limit` and about QUOTED characters of them, and how many more there are."""
    shown: list[str] = []
    for name in names:
        if len(shown) == limit or (shown and len(", ".join(shown)) + len(name) > QUOTED):
            break
        shown.append(shorten(name))
    more = f", and {len(names) - len(shown):,} more" if len(shown) < len(names) else ""
    return ", ".join(shown) + more


def out_of_memory(error: BaseException) -> bool:
    """Whether the error means out of memory, in any library's words."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def missing_extra(package: str, extra: str) -> UsageError:
    """The error for a missing package that only the extra `extra` installs."""
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
# A shorter secret may occur in any text by chance, and would protect nothing.
MIN_SECRET_LENGTH = 6
# user:password@ after ://. A password may contain slashes, as AWS's keys do; what is a port number is no password.
_USER = re.compile(r"(?<=://)(?:[^\s/@:'\"]*:(?!\d+(?:[/\s'\",.:;)?#]|$))[^\s@'\"]*@|[^\s/@'\"?#]*@)+")
_VALUE = re.compile(r"([?&#;][\w.\-%\[\]]+=)[^\s&#;'\"<>)]+")


def redact(text: str) -> str:
    """Remove user names and passwords from URLs; replace values in queries and the environment's secrets by `…`."""
    for name in SECRETS:
        secret = os.environ.get(name, "").strip()
        if len(secret) >= MIN_SECRET_LENGTH:
            text = text.replace(secret, "…")
    return _VALUE.sub(r"\1…", _USER.sub("", text))


def address(url: str) -> str:
    """Return a URL without user and password, and without query and fragment where it is http or https."""
    plain = _USER.sub("", url)
    return re.split(r"[?#]", plain, maxsplit=1)[0] if plain.startswith(("http://", "https://")) else plain


def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the usual traceback to stderr, redacted. For sys.excepthook."""
    text = redact("".join(traceback.format_exception(kind, error, trace)))
    sys.stderr.write("\n".join(map(escape, text.split("\n"))))
