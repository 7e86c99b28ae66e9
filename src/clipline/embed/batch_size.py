"""How many images to give the model in one call: as asked, or as this machine likes best."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel

LEAST_GAIN = 1.05
LARGEST = 1024
SECONDS = 1.0


def choose(model: OnnxModel, wanted: str, say: Callable[[str], None]) -> int:
    """`wanted` as a number, or for `auto` the knee (see `knee`), which `say` is told.

    Raises UsageError.
    """
    if wanted != "auto":
        if not wanted.isdecimal() or int(wanted) < 1:
            raise UsageError(f"--batch-size {wanted}: a number above 0, or auto")
        return int(wanted)
    side = model.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (LARGEST, side, side, 3), dtype=np.uint8)
    size, rates = knee(lambda count: rate(model, pixels[:count], SECONDS))
    tried = ", ".join(f"{count}: {found:,.0f}" for count, found in rates.items())
    say(f"--batch-size auto: {size} (images/s at {tried})")
    return size


def knee(measure: Callable[[int], float]) -> tuple[int, dict[int, float]]:
    """Double the batch until it gains less than 5% or memory runs out -> (the best size, rate of each size tried).

    measure: images/s of a batch of so many; it may raise CliplineError or MemoryError, but for one image.
    """
    size, rates = 1, {1: measure(1)}
    while size < LARGEST:
        try:
            rates[2 * size] = measure(2 * size)
        except (CliplineError, MemoryError):
            break
        if rates[2 * size] < LEAST_GAIN * rates[size]:
            break
        size *= 2
    return size, rates


def rate(model: OnnxModel, pixels: np.ndarray, seconds: float) -> float:
    """Images per second of the model alone on one batch that is ready, again and again for about `seconds`."""

    def calls(_: int) -> int:
        done = 0
        while time.perf_counter() - begun < seconds:
            model.embed_pixels(pixels)
            done += len(pixels)
        return done

    model.embed_pixels(pixels)  # the first call of a shape plans its memory
    at_once = model.calls_at_once
    with ThreadPoolExecutor(at_once) as pool:
        begun = time.perf_counter()
        done = sum(pool.map(calls, range(at_once)))
        return done / (time.perf_counter() - begun)
