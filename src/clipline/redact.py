"""Take secrets out of what people and files get to see: errors, notes, tracebacks, places in a manifest.

Credentials come from the environment or inside a URL (`https://user:password@host`, signed links with the signature in
the query), and libraries put whole URLs into their errors.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType

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
