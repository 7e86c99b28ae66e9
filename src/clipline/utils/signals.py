"""SIGTERM as an exception, so that `with` blocks end properly and the run is marked KILLED.

Python's own answer to SIGTERM is to die on the spot, which leaves a run RUNNING for ever.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """Raised in the main thread by a signal; the exit code is 128 + its number, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name

    def __str__(self) -> str:
        return self.name


class Signals:
    """While open, the first SIGTERM or SIGHUP raises Terminated; after `hold` it waits for the end instead.

    A handler that was there before is called instead of raising; an ignored signal stays ignored (nohup).
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._holding = False
        self._raised = False
        self._pid = os.getpid()
        self._previous: dict[int, signal.Handlers] = {}

    def hold(self) -> None:
        """From here on a signal is only noted: the run is being closed."""
        self._holding = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous[number]
        if os.getpid() != self._pid:  # a forked worker (of a data loader, say) dies as if nothing were set
            signal.signal(number, previous)
            os.kill(os.getpid(), number)
            return
        first = self.received is None
        self.received = self.received or number
        if self._holding or not first:
            return
        self._raised = True
        if callable(previous):
            previous(number, frame)
        else:
            raise Terminated(number)

    def __enter__(self) -> Signals:
        # Only the main thread may set handlers; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED:
                previous = signal.getsignal(number)
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous[number] = previous
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        if self.received and not self._raised:
            signal.raise_signal(self.received)


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
