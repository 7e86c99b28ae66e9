"""Time spent in the phases of training: data, forward and backward, optimiser, validation, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NAMES = ("data", "forward_backward", "optimizer", "eval")


class PhaseTimer:
    """Adds up seconds by phase. On CUDA it records events in the stream and synchronises only in `row`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._reset()

    def _reset(self) -> None:
        self._begun = time.perf_counter()
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the block's time to a phase."""
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    def row(self) -> dict[str, float]:
        """Seconds since the last `row`: seconds_data and so on, and seconds_other for time outside all phases."""
        if self._cuda:
            torch.cuda.synchronize()
            for name, start, end in self._events:
                self._seconds[name] += start.elapsed_time(end) / 1000
        seconds, total = self._seconds, time.perf_counter() - self._begun
        self._reset()
        return {f"seconds_{name}": value for name, value in seconds.items()} | {
            "seconds_other": max(total - sum(seconds.values()), 0.0)
        }
