"""Reused buffers and page-locked memory, with the CPU as the device and a fake driver that counts calls."""

import ctypes
import gc
import threading

import numpy as np
import onnxruntime
import pytest

from clipline.errors import CliplineError
from clipline.runtime import cuda
from clipline.runtime.cuda import CudaBufferPool
from clipline.runtime.model import OnnxModel


@pytest.fixture
def made():
    return []


@pytest.fixture
def calls(bundle, made):
    def allocate(shape):
        made.append(shape[0])
        return np.zeros(shape, np.uint8)

    session = onnxruntime.InferenceSession(bundle / "image.onnx", providers=["CPUExecutionProvider"])
    return CudaBufferPool(onnxruntime, session, 3, device="cpu", allocate=allocate)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


def test_same_as_plain_calls(calls, bundle, pixels):
    plain = OnnxModel(bundle, provider="cpu").embed_pixels(pixels)
    assert np.allclose(calls.run(pixels), plain, atol=1e-6)


def test_results_stay_when_the_buffers_are_used_again(calls, pixels):
    first = calls.run(pixels[:8])
    kept = first.copy()
    assert not np.allclose(calls.run(pixels[8:16]), kept)
    assert np.array_equal(first, kept)


def test_a_tail_takes_the_large_buffers_and_small_batches_get_their_own(calls, made, pixels):
    for count in (32, 32, 20, 16, 15, 15, 3, 32):
        vectors = calls.run(pixels[:count])
        assert len(vectors) == count
        assert np.allclose(vectors, calls.run(pixels[:32])[:count], atol=1e-6)
    assert made == [32, 15, 3]


def test_two_threads_take_turns_with_two_sets(calls, made, pixels):
    wrong = []

    def work(start):
        expected = calls.run(pixels[start : start + 8])
        for _ in range(50):
            if not np.array_equal(calls.run(pixels[start : start + 8]), expected):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
    assert made.count(8) == len(made) <= 2


def test_a_failed_call_gives_its_buffers_back(calls, made, pixels):
    calls.run(pixels[:4])
    broken, calls._session = calls._session, None
    with pytest.raises(AttributeError):
        calls.run(pixels[:4])
    calls._session = broken
    calls.run(pixels[:4])
    assert made == [4]


class Driver:
    """The CUDA driver's functions that `pinned` calls, with a record of what is allocated."""

    def __init__(self, fails=None):
        self.fails, self.memory, self.contexts, self.retained = fails, {}, 0, 0

    def __getattr__(self, name):
        return lambda *arguments: 2 if name == self.fails else self.call(name, *arguments)

    def call(self, name, *arguments):
        match name:
            case "cuDevicePrimaryCtxRetain":
                self.retained += 1
            case "cuDevicePrimaryCtxRelease_v2":
                self.retained -= 1
            case "cuCtxPushCurrent_v2":
                self.contexts += 1
            case "cuCtxPopCurrent_v2":
                self.contexts -= 1
            case "cuMemHostAlloc":
                assert self.contexts == 1
                block = ctypes.create_string_buffer(b"\x07" * arguments[1].value)
                arguments[0]._obj.value = ctypes.addressof(block)
                self.memory[ctypes.addressof(block)] = block
            case "cuMemFreeHost":
                assert self.contexts == 1
                del self.memory[arguments[0].value]
            case "cuInit" | "cuDeviceGet":
                pass
            case _:
                raise AssertionError(name)
        return 0


def test_page_locked_memory_lives_as_long_as_its_views(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    array = cuda.pinned((2, 3, 4, 3))
    assert array.shape == (2, 3, 4, 3)
    assert array.dtype == np.uint8
    assert not array.any()
    array[1] = 9
    view = array[1:]
    del array
    gc.collect()
    assert driver.memory
    assert (view == 9).all()
    del view
    gc.collect()
    assert (driver.memory, driver.contexts, driver.retained) == ({}, 0, 0)


@pytest.mark.parametrize("fails", ["cuMemHostAlloc", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2"])
def test_no_memory_is_an_error_and_nothing_stays_held(monkeypatch, fails):
    driver = Driver(fails)
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    with pytest.raises(CliplineError, match=f"{fails} failed with error 2"):
        cuda.pinned((1, 2, 2, 3))
    assert (driver.contexts, driver.retained) == (0, 0)
