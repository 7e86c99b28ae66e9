"""Run an image graph on a device through reused buffers: no memory is allocated or bound per batch.

A set of buffers holds one batch: page-locked pixels that the device copies from, the same on the device, and the
vectors. While the model runs on one set another can be filled, so that two threads keep the device busy; onnxruntime
uses a separate stream for each call.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from clipline.errors import CliplineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, OrtValue

# A batch may use buffers of up to twice its size; else new ones of its size are allocated.
MAX_BUFFER_RATIO = 2
PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: page-locked for every context of the process
DEVICE = 0


def pinned(shape: tuple[int, ...]) -> np.ndarray:
    """Allocate uint8 zeros of `shape` in page-locked memory, which is freed with the array.

    Raises CliplineError where the driver cannot allocate it. Call it only where CUDA has started.
    """
    size = int(np.prod(shape))
    pointer = ctypes.c_void_p()
    with _context():
        _check("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), PORTABLE)
    memory = (ctypes.c_uint8 * size).from_address(pointer.value)
    # Views of the array keep `memory` alive, and with it the allocation.
    weakref.finalize(memory, _free, pointer)
    array = np.frombuffer(memory, np.uint8).reshape(shape)
    array[...] = 0
    return array


def load_driver() -> ctypes.CDLL:
    """Load the CUDA driver's library. Raises OSError where there is none."""
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


@cache
def _driver() -> ctypes.CDLL:
    return load_driver()


@contextmanager
def _context() -> Iterator[None]:
    """Make the context that onnxruntime uses too the current one of this thread."""
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
            f"the CUDA driver: {name} failed with error {code}. Fix: if memory ran out, smaller batches"
        )


@dataclass(frozen=True)
class _Buffers:
    """The buffers of one batch.

    staging: uint8 [b, S, S, 3] in page-locked memory. pixels: the same on the device. vectors: float32 [b, dim].
    """

    staging: np.ndarray
    pixels: OrtValue
    vectors: np.ndarray
    binding: IOBinding


class CudaBufferPool:
    """Runs `session` on batches of any size; several threads may call it at the same time.

    dim: length of an embedding. device: onnxruntime's name of the device. allocate: returns uint8 memory of a shape for
    the staging buffers.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: InferenceSession,
        dim: int,
        *,
        device: str = "cuda",
        allocate: Callable[[tuple[int, ...]], np.ndarray] = pinned,
    ) -> None:
        self._ort, self._session, self._dim, self._device, self._allocate = ort, session, dim, device, allocate
        self._lock = threading.Lock()
        self._free: list[_Buffers] = []

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3] -> float32 [n, dim]. The rest of larger buffers keeps its earlier content."""
        buffers = self._take(pixels.shape)
        try:
            buffers.staging[: len(pixels)] = pixels
            buffers.pixels.update_inplace(buffers.staging)
            self._session.run_with_iobinding(buffers.binding)
            return buffers.vectors[: len(pixels)].copy()
        finally:
            with self._lock:
                self._free.append(buffers)

    def _take(self, shape: tuple[int, ...]) -> _Buffers:
        """The smallest free buffers that are large enough, or new ones."""
        with self._lock:
            sizes = {len(buffers.staging): index for index, buffers in enumerate(self._free)}
            if fitting := [size for size in sizes if shape[0] <= size <= MAX_BUFFER_RATIO * shape[0]]:
                return self._free.pop(sizes[min(fitting)])
        return self._allocate_buffers(shape)

    def _allocate_buffers(self, shape: tuple[int, ...]) -> _Buffers:
        value = self._ort.OrtValue
        pixels = value.ortvalue_from_shape_and_type(list(shape), np.uint8, self._device, 0)
        vectors = np.zeros((shape[0], self._dim), np.float32)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("pixels", pixels)
        binding.bind_ortvalue_output("embedding", value.ortvalue_from_numpy(vectors))
        return _Buffers(self._allocate(shape), pixels, vectors, binding)
