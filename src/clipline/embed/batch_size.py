"""How many images the model gets in one call: a given number, or the one that is fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel

MIN_GAIN = 1.05  # in images/s, of twice the batch
MAX_BATCH = 1024
SECONDS = 1.0  # for each size


def pick_batch_size(model: OnnxModel, wanted: str, report: Callable[[str], None]) -> int:
    """`wanted` as a number, or for `auto` the measured knee, of which `report` gets a line.

    Raises UsageError where `wanted` is neither a number above 0 nor `auto`.
    """
    if wanted != "auto":
        if not wanted.isdecimal() or int(wanted) < 1:
            raise UsageError(f"--batch-size {wanted}: a number above 0, or auto")
        return int(wanted)
    side = model.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (MAX_BATCH, side, side, 3), dtype=np.uint8)
    size, rates = knee(lambda count: rate(model, pixels[:count], SECONDS))
    tried = ", ".join(f"{count}: {images_per_s:,.0f}" for count, images_per_s in rates.items())
    report(f"--batch-size auto: {size} (images/s at {tried})")
    return size


def knee(measure: Callable[[int], float]) -> tuple[int, dict[int, float]]:
    """Double the batch until that gains less than 5% or memory runs out -> (the best size, rate of each size tried).

    measure: batch size -> images/s. Where it raises CliplineError or MemoryError the search ends, except at size 1.
    """
    size, rates = 1, {1: measure(1)}
    while size < MAX_BATCH:
        try:
            rates[2 * size] = measure(2 * size)
        except (CliplineError, MemoryError):
            break
        if rates[2 * size] < MIN_GAIN * rates[size]:
            break
        size *= 2
    return size, rates


def rate(model: OnnxModel, pixels: np.ndarray, seconds: float) -> float:
    """Images per second of the model alone, on the same ready batch for about `seconds`. pixels: uint8 [b, S, S, 3]."""

    def calls(_: int) -> int:
        done = 0
        while not done or time.perf_counter() - begun < seconds:
            model.embed_pixels(pixels)
            done += len(pixels)
        return done

    model.embed_pixels(pixels)  # the first call of a shape allocates memory
    at_once = model.calls_at_once
    with ThreadPoolExecutor(at_once) as pool:
        begun = time.perf_counter()
        done = sum(pool.map(calls, range(at_once)))
        return done / (time.perf_counter() - begun)
