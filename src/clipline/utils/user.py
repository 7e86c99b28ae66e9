"""A name and a home for a user who has none: one without an entry in passwd, as in `docker run --user 12345`."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def ensure_name_and_home(home: str = "/") -> None:
    """Set USER and HOME where nothing says what they are, since DVC, MLflow and matplotlib fail without them.

    home: an absolute path for HOME, which need not exist. A home that is the root folder, which is what Docker sets,
    counts as none unless it can be written.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # an OSError from Python 3.13 on; Windows has no passwd at all
        os.environ["USER"] = str(os.getuid()) if hasattr(os, "getuid") else "user"
    usual = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    if usual == "~" or (usual == "/" and home != "/" and not os.access("/", os.W_OK)):
        os.environ["HOME"] = str(Path(home).absolute())
