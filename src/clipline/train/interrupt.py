"""Signals that ask training to end: taken note of, and passed on once the step is done and its state is saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupt:
    """While open, the first SIGTERM, SIGINT or SIGHUP only sets `received`; it is raised again at the end.

    A second one has its usual effect at once. Ignored signals stay ignored (nohup), and outside the main thread, where
    Python allows no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, signal.Handlers] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._restore()
            signal.raise_signal(number)
        self.received = number

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                previous = signal.getsignal(number)
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous[number] = previous
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self.received is not None:
            signal.raise_signal(self.received)
