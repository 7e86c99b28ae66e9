"""Where the time of a run went, stage by stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("read", "decode", "model", "write")


class StageTimer:
    """Sums the seconds for which the threads of each stage were at work.

    threads: stage -> its number of threads; a stage that is missing has one.
    """

    def __init__(self, threads: dict[str, int]) -> None:
        self.threads = threads
        self._start = time.perf_counter()
        self._lock = threading.Lock()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - start})

    def add(self, seconds: dict[str, float]) -> None:
        """Count seconds by stage that were measured elsewhere."""
        with self._lock:
            for name, spent in seconds.items():
                self.seconds[name] += spent

    @property
    def elapsed(self) -> float:
        """Seconds since the timer was made."""
        return time.perf_counter() - self._start

    def busy(self) -> dict[str, float]:
        """For each stage, the fraction of the elapsed time that its threads were at work, 0 to 1."""
        elapsed = max(self.elapsed, 1e-9)
        return {name: self.seconds[name] / (self.threads.get(name, 1) * elapsed) for name in STAGES}

    def __str__(self) -> str:
        busy = self.busy()
        limit = max(busy, key=busy.__getitem__)
        parts = ", ".join(f"{name} {self.seconds[name]:,.1f} s" for name in STAGES)
        return f"{parts} of thread time; the limit was {limit}, busy {busy[limit]:.0%} of the time"
