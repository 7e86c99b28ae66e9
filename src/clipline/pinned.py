"""Page-locked memory from the CUDA driver: the GPU copies out of it by itself, at the full speed of the bus.

The driver is asked directly (CUDA driver API, sections 6.8 "Primary context" and 6.13 "Memory management"): that needs
no other CUDA library, and onnxruntime's Python has no way to it.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from clipline.errors import CliplineError

PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: page-locked for every context of the process
DEVICE = 0


def pinned(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 zeros of `shape` in page-locked memory, given back when the array is gone.

    Raises CliplineError where the driver has none to give. Call it only where CUDA has started.
    """
    size = int(np.prod(shape))
    pointer = ctypes.c_void_p()
    with _context():
        _check("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), PORTABLE)
    memory = (ctypes.c_uint8 * size).from_address(pointer.value)
    # Views of the array keep `memory` alive, and with it the pages.
    weakref.finalize(memory, _free, pointer)
    array = np.frombuffer(memory, np.uint8).reshape(shape)
    array[...] = 0
    return array


def load_driver() -> ctypes.CDLL:
    """The CUDA driver's library. Raises OSError where there is none."""
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


@cache
def _driver() -> ctypes.CDLL:
    return load_driver()


@contextmanager
def _context() -> Iterator[None]:
    """The context that onnxruntime uses too, current in this thread."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check("cuInit", 0)
    _check("cuDeviceGet", ctypes.byref(device), DEVICE)
    _check("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _check("cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            _check("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
    finally:
        _check("cuDevicePrimaryCtxRelease_v2", device)


def _free(pointer: ctypes.c_void_p) -> None:
    with _context():
        _check("cuMemFreeHost", pointer)


def _check(name: str, *arguments: object) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code:
        raise CliplineError(
            f"the CUDA driver: {name} failed with error {code}. Mend: if memory ran out, smaller batches"
        )
