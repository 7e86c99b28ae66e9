"""Progress of long work: a live bar in a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from clipline.errors import escape

LOG_EVERY_SECONDS = 10.0


def note(text: str) -> None:
    """Print one line on stderr, where the stages' other output goes."""
    print(escape(text), file=sys.stderr, flush=True)  # noqa: T201


class Bar:
    """Progress of `total` units of work (None: unknown). Use as a context manager; call `advance` as work is done.

    done: units that an earlier process did; they do not count for the rate.
    """

    def __init__(
        self, title: str, total: int | None, unit: str = "", console: Console | None = None, *, done: int = 0
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._before = done
        self._note, self._lock = "", threading.Lock()
        console = console or Console(stderr=True)
        self._live = Progress(*self._columns(), console=console) if console.is_terminal else None
        self._task = self._live.add_task(title, total=total, completed=done, note="") if self._live else None

    def _columns(self) -> list[ProgressColumn]:
        if self.unit == "bytes":
            amount: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()]
        else:
            amount = [MofNCompleteColumn(), TextColumn(self.unit, markup=False)]
        # File names may look like rich's markup.
        text = TextColumn("{task.description}", markup=False)
        return [
            text,
            BarColumn(),
            TaskProgressColumn(),
            *amount,
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        ]

    def set_total(self, total: int) -> None:
        """Set a total that was unknown at the start. May be called from any thread."""
        self.total = total
        if self._live:
            self._live.update(self._task, total=total)

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        """Count `amount` more units as done. note: text for the end of the line, such as a loss. Thread-safe."""
        with self._lock:
            self.done += amount
            self._note = self._note if note is None else note
            if self._live:
                self._live.update(self._task, advance=amount, note=self._note)
            elif time.monotonic() - self._last >= LOG_EVERY_SECONDS:
                self._log()

    def _log(self) -> None:
        self._last = time.monotonic()
        rate = (self.done - self._before) / max(self._last - self._start, 1e-9)
        scale, unit = (1e6, "MB") if self.unit == "bytes" else (1, self.unit)
        line = f"{self.title}: {self.done / scale:,.0f}"
        if self.total:
            left = (self.total - self.done) / max(rate, 1e-9)
            line += f" of {self.total / scale:,.0f} {unit}, {left:,.0f} s left"
        else:
            line += f" {unit}"
        note(f"{line}  {self._note}".rstrip())

    def __enter__(self) -> Bar:
        self._start = self._last = time.monotonic()
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
        elif kind is None and self._last != self._start:
            self._log()
