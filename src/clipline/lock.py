"""One process at a time per folder; the system drops the lock with the process, however it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipline.errors import CliplineError

BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold `folder`, which exists, for this process. Raises CliplineError, with `busy`, where another one holds it.

    The folder itself is locked, so no file is left behind. Windows locks no folders, and some network file
    systems none at all: there nothing is held.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                raise CliplineError(f"{folder}: {busy}") from None
        yield
    finally:
        os.close(handle)
