"""Which precision of a model is the fastest here: measured, since no table knows this machine.

int8 is fast where the CPU multiplies bytes (VNNI, AMX) and may be slow on CUDA; float16 is fast on CUDA and mostly slow
on CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import get_args

from clipline.runtime.bundle import Precision

# A less exact one must be faster by a twentieth, or two runs would take different ones by chance.
ORDER, MARGIN = get_args(Precision), 1.05


def fastest(calls: dict[str, Callable[[], object]], batch: int, seconds: float = 1.0) -> tuple[str, str]:
    """The fastest of `calls` (precision -> one batch of `batch` images), and why in words.

    Each is timed for about `seconds`, in turns, so that a busy moment hits all; its best batch counts.
    """
    for call in calls.values():
        call()  # the first batch also makes plans and allocates
    best, spent = dict.fromkeys(calls, float("inf")), dict.fromkeys(calls, 0.0)
    while waiting := [name for name in calls if spent[name] < seconds]:
        for name in waiting:
            start = time.perf_counter()
            calls[name]()
            took = time.perf_counter() - start
            best[name], spent[name] = min(best[name], took), spent[name] + took
    chosen = choose({name: batch / took for name, took in best.items()})
    ranked = sorted(best, key=best.__getitem__)
    rates = ", ".join(f"{name} {batch / best[name]:,.0f}" for name in ranked)
    why = "the fastest here" if chosen == ranked[0] else "as fast as any here"
    return chosen, f"{chosen}, {why}: {rates} images/s"


def choose(rates: dict[str, float]) -> str:
    """The precision with the highest rate, or a more exact one that is nearly as fast."""
    chosen = ""
    for name in sorted(rates, key=ORDER.index):
        if not chosen or rates[name] > MARGIN * rates[chosen]:
            chosen = name
    return chosen
