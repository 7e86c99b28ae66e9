"""What helps against an error of the system, a server, a database or MLflow: its cause decides, not its place.

Each cause has a test (tests/utils/test_remedies.py).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from clipline.errors import first_line


class Cause(NamedTuple):
    """numbers: of OSError. words: a pattern in the message. fix: what helps; it may refer to the pattern's groups."""

    fix: str
    numbers: tuple[int, ...] = ()
    words: str | None = None


# The first one that fits counts.
CAUSES = (
    # Servers: who they let in, before how they are reached.
    Cause(
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        words=r"\b401\b|unauthori[sz]ed|unauthenticated|not authenticated",
    ),
    Cause(
        "have its owner give you the right, or sign in as another user (MLFLOW_TRACKING_USERNAME or _TOKEN)",
        words=r"\b403\b|forbidden|permission_denied",
    ),
    Cause("correct the path in MLFLOW_TRACKING_URI: no MLflow server is there", words=r"\b404\b|ENDPOINT_NOT_FOUND"),
    Cause(
        "correct MLFLOW_TRACKING_URI: what answers is no MLflow server, perhaps a proxy or a page to sign in",
        words=r"not in a valid JSON|not as an MLflow server does",
    ),
    Cause("write http:// in MLFLOW_TRACKING_URI: the server does not speak https", words=r"WRONG_VERSION_NUMBER"),
    Cause("name the file of its certificate in MLFLOW_TRACKING_SERVER_CERT_PATH", words=r"certificate.verify.failed"),
    Cause("see the server's log: it answers with an error of its own", words=r"\b50[0234]\b"),
    Cause(
        "correct the server's name, or connect to its network",
        words=r"Name or service not known|nodename nor servname|getaddrinfo|name resolution|No address associated",
    ),
    Cause(
        "start that server, or unset MLFLOW_TRACKING_URI to track in mlflow.db",
        (errno.ECONNREFUSED,),
        r"connection refused",
    ),
    Cause(
        "see that this machine reaches the server (network, VPN, firewall)",
        (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET, errno.ENETDOWN),
        r"timed out|unreachable|connection (was )?(reset|aborted)|remote end closed",
    ),
    # Stores.
    Cause(
        "install the MLflow that wrote it, or a later one; or move it away to begin a new store",
        words=r"of a newer MLflow|Can't locate revision",
    ),
    Cause("copy it, then bring it up to date with `mlflow db upgrade` and its address", words=r"of an older MLflow"),
    Cause("restore a copy of it, or move it away to begin a new store", words=r"not a database|malformed"),
    Cause("end the program that writes to it, or wait", (errno.EBUSY, errno.ETXTBSY), r"database is locked|is busy"),
    Cause("make it and its folder writable, or move it away to begin a new store", words=r"readonly database"),
    Cause("see that it is a file that can be written, in a folder that exists", words=r"unable to open database file"),
    Cause(
        "write an address with a scheme in MLFLOW_TRACKING_URI, such as http://host:5000 or sqlite:///mlflow.db",
        words=r"unsupported URI|filesystem tracking backend",
    ),
    Cause(r"pip install \1", words=r"No module named '([\w.]+)'"),
    # Disks and files.
    Cause("free some space there", (errno.ENOSPC, errno.EDQUOT), r"no space left|disk is full|quota exceeded"),
    Cause("choose another place, or mount that one writable", (errno.EROFS,), r"read-only file system"),
    Cause(
        "correct its permissions or owner, or choose another place", (errno.EACCES, errno.EPERM), r"permission denied"
    ),
    Cause("shorten the name", (errno.ENAMETOOLONG,), r"name too long"),
    Cause("end other programs, or raise the limit with `ulimit -n`", (errno.EMFILE, errno.ENFILE), r"too many open"),
    Cause("raise the limit of `ulimit -f`, or choose another file system", (errno.EFBIG,), r"file too large"),
    Cause("see that the disk or its network works, then run again", (errno.EIO, errno.ESTALE, errno.ENOTCONN)),
    Cause("correct the path: a part of it is a file", (errno.ENOTDIR, errno.EEXIST)),
    Cause("name a file: that is a folder", (errno.EISDIR,)),
    Cause("correct the path", (errno.ENOENT,), r"no such file"),
    Cause("remove the links that lead to each other", (errno.ELOOP,)),
)
HOME_HINT = ". HOME and XDG_CACHE_HOME say where caches lie"


def remedy(error: BaseException, otherwise: str = "see that path and its permissions", words: str = "") -> str:
    """What helps against an error or those below it.

    otherwise: against a cause that is not in CAUSES. words: a message of the error's that it does not hold itself.
    """
    chain = list(_chain(error))
    # Numbers first: a file's name may hold any words.
    for cause, below in product(CAUSES, chain):
        if getattr(below, "errno", None) in cause.numbers:
            return cause.fix + _home_hint(below)
    for cause, text in product(CAUSES, [words, *map(str, chain)]):
        if cause.words and (found := re.search(cause.words, text, re.IGNORECASE)):
            return found.expand(cause.fix)
    return otherwise


def why(error: OSError) -> str:
    """The system's words for an error, and what helps: `No space left on device. Fix: free some space there`."""
    return f"{error.strerror or first_line(error)}. Fix: {remedy(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _home_hint(error: BaseException) -> str:
    home, file = os.path.expanduser("~"), getattr(error, "filename", None)  # noqa: PTH111 - Path.home() may raise
    inside = isinstance(file, str | os.PathLike) and len(home) > 1 and os.fspath(file).startswith(home + os.sep)
    return HOME_HINT if inside and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else ""
