"""Signals that let `with` blocks end properly: SIGTERM as an exception, or noted until the block's end.

Python's default for SIGTERM ends the process at once, which would leave a tracked run RUNNING for ever.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Self


class Terminated(SystemExit):
    """Raised in the main thread by a signal; the exit code is 128 + its number, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name

    def __str__(self) -> str:
        return self.name


class _Handlers:
    """Gives signals to `_handle` while open. received: the number of the first one, or None.

    Ignored signals stay ignored (nohup). Outside the main thread, where Python allows no handlers, nothing changes. A
    forked process, such as a data loader's worker, keeps the handlers that were there before.
    """

    names = ("SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        self.received: int | None = None
        self._pid = os.getpid()
        self._previous: dict[int, signal.Handlers] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            self._handle(number, frame)
        else:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in self.names if hasattr(signal, name)):
                previous = signal.getsignal(number)
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous[number] = previous
                    signal.signal(number, self._on_signal)
        return self


class Signals(_Handlers):
    """While open, the first SIGTERM or SIGHUP raises Terminated; after `hold` it waits for the end instead.

    A handler that was there before is called instead of raising.
    """

    def __init__(self) -> None:
        super().__init__()
        self._holding = self._raised = False

    def hold(self) -> None:
        """From here on a signal is only noted: the run is being closed."""
        self._holding = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, self.received or number
        if self._holding or not first:
            return
        self._raised = True
        previous = self._previous[number]
        if not callable(previous):
            raise Terminated(number)
        previous(number, frame)

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self.received and not self._raised:
            signal.raise_signal(self.received)


class Interrupt(_Handlers):
    """While open, the first SIGTERM, SIGINT or SIGHUP only sets `received`; it is raised again at the end.

    A second one has its usual effect at once.
    """

    names = ("SIGTERM", "SIGINT", "SIGHUP")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._restore()
            signal.raise_signal(number)
        self.received = number

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self.received is not None:
            signal.raise_signal(self.received)
