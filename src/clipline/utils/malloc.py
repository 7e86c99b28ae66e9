"""The C library's heap: memory that one training step frees is reused by the next one.

glibc returns large blocks to the kernel as soon as they are freed, and the kernel clears every page of the next block:
training MobileNet on two cores spent 44 % of its time there, and a step takes 0.55 of the time without it
(docs/log/speed.md). The process then keeps the memory of its largest step, a quarter more than before.
"""

from __future__ import annotations

import ctypes
import sys

# malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Bytes at the top of the heap above which some are returned to the kernel. mallopt takes an int, and a step frees more
# than 2 GB, so only -1 (never) is large enough.
NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory from now on. Returns False where the C library cannot; glibc can."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Some versions of musl have the function for compatibility, and it does nothing.
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
