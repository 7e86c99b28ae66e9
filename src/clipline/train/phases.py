"""Where the time of training goes: data, forward and backward, optimiser, validation, and what is left over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NAMES = ("data", "forward_backward", "optimizer", "eval")


class PhaseTimer:
    """Adds up seconds by phase. On CUDA it marks the GPU's own stream, and waits for it only when asked for `row`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._reset()

    def _reset(self) -> None:
        self._begun = time.perf_counter()
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block's time for a phase."""
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._marks.append((name, start, end))
            return
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    def row(self) -> dict[str, float]:
        """Seconds since the last `row`: seconds_data, ..., and seconds_other for what is in no phase."""
        if self._cuda:
            torch.cuda.synchronize()
            for name, start, end in self._marks:
                self._seconds[name] += start.elapsed_time(end) / 1000
        seconds, whole = self._seconds, time.perf_counter() - self._begun
        self._reset()
        return {f"seconds_{name}": value for name, value in seconds.items()} | {
            "seconds_other": max(whole - sum(seconds.values()), 0.0)
        }
