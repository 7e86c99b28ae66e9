"""Measure which precision of a model is the fastest on this machine.

int8 is fast where the CPU multiplies bytes (VNNI, AMX) and may be slow on CUDA; float16 is fast on CUDA and mostly slow
on CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import get_args

from clipline.runtime.bundle import Precision

# Precisions, the most exact first. A less exact one must be 5 % faster, or two runs could choose differently by chance.
ORDER, MARGIN = get_args(Precision), 1.05


def fastest(calls: dict[str, Callable[[], object]], batch: int, seconds: float = 1.0) -> tuple[str, str]:
    """The fastest of `calls` (precision -> a call on `batch` images), and the measurement in words.

    The calls are timed in turns, for about `seconds` each, so that a busy moment affects all; the best batch counts.
    """
    for call in calls.values():
        call()  # the first call also allocates
    best, spent = dict.fromkeys(calls, float("inf")), dict.fromkeys(calls, 0.0)
    while waiting := [name for name in calls if spent[name] < seconds]:
        for name in waiting:
            start = time.perf_counter()
            calls[name]()
            took = time.perf_counter() - start
            best[name], spent[name] = min(best[name], took), spent[name] + took
    picked = pick_precision({name: batch / took for name, took in best.items()})
    ranked = sorted(best, key=best.__getitem__)
    rates = ", ".join(f"{name} {batch / best[name]:,.0f}" for name in ranked)
    why = "the fastest here" if picked == ranked[0] else "as fast as any here"
    return picked, f"{picked}, {why}: {rates} images/s"


def pick_precision(rates: dict[str, float]) -> str:
    """The precision with the highest rate, or a more exact one that is nearly as fast."""
    picked = ""
    for name in sorted(rates, key=ORDER.index):
        if not picked or rates[name] > MARGIN * rates[picked]:
            picked = name
    return picked
