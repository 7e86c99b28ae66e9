"""Errors that a user can mend, each with the exit code that the command line promises.

Whatever a person may do wrong (a bad key, a truncated archive, a missing extra) raises one of these with a
message that says what, where and how to mend it; the entry points print it without a traceback.
"""

from __future__ import annotations

import re

from clipline.redact import redact

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class CliplineError(Exception):
    """The work could not be done: exit code 1.

    The message loses whatever secrets a library put into it, and shows control characters, which names of files may
    hold, as \\x1b and the like: a terminal would obey them.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", redact(str(message))))


class UsageError(CliplineError):
    """Bad usage or configuration, found before any work: exit code 2."""

    exit_code = 2


class TooManyErrorsError(CliplineError):
    """Done, but more inputs failed than were allowed: exit code 3."""

    exit_code = 3


def missing_extra(package: str, extra: str) -> UsageError:
    """The error for a package that only an extra installs."""
    return UsageError(f"{package} is not installed. Mend: pip install 'clipline[{extra}]'")
