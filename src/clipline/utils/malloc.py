"""The C library's heap: what one training step frees, the next one takes again.

glibc hands large blocks back to the kernel as soon as they are freed, and the kernel clears every page of the next one:
training MobileNet on two cores spent 44 % of its time there, and a step takes 0.55 of the time without
(docs/log/speed.md). What is kept instead is the largest step's memory, a quarter more than before.
"""

from __future__ import annotations

import ctypes
import sys

# malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Bytes at the top of the heap before some are handed back. No number is large enough: mallopt takes an int, and a step
# frees more than 2 GB.
NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, from now on. Returns whether the C library can: glibc's can."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # musl has the name in some versions, for old programs' sake, and does nothing.
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
