"""What is to be sent to the store, in order; what cannot be sent now waits, so that training goes on.

Every message carries its own timestamps, and the store ignores an exact repeat: sending twice is safe.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from clipline.tracking.messages import cause, is_final, say
from clipline.tracking.spool import Message, Spool

MAX_WAITING = 10_000
# After a failure, wait at least this many times as long as the failed attempt took: a store that hangs costs
# training at most 2.5 %.
PAUSE = 40


class Outbox:
    """Messages on their way to the store.

    send: delivers one message; raises one of `errors` where it cannot.
    where: the store's address, for messages to people. spool: takes what is still waiting in the end.
    """

    def __init__(
        self, send: Callable[..., None], errors: tuple[type[Exception], ...], where: str, spool: Spool
    ) -> None:
        self._send, self._errors, self._where, self._spool = send, errors, where, spool
        self._waiting: deque[Message] = deque()
        self._dropped = 0
        self._down = False
        self._last = ""
        self._retry_at = 0.0
        self._refused: set[str] = set()

    def put(self, kind: str, **arguments: Any) -> None:
        """Send, or keep for later: for the first `put` after a pause, or for `close`."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append((kind, arguments))
        if time.monotonic() >= self._retry_at:
            self._flush()

    def close(self) -> bool:
        """Try once more, and keep on disk what cannot be sent. Returns whether everything was sent."""
        self._flush()
        if self._dropped:
            say(f"{self._dropped} log calls were too many to keep, and never reached {self._where}")
        if self._waiting:
            try:
                self._spool.keep(self._waiting)
            except OSError as error:
                say(f"{len(self._waiting)} log calls never reached {self._where}, nor the disk ({cause(error)})")
            else:
                say(
                    f"{len(self._waiting)} log calls did not reach {self._where} ({self._last}): they wait in "
                    f"{self._spool.folder}. The next stage sends them, or: clipline sync"
                )
        return not (self._waiting or self._dropped)

    def _flush(self) -> None:
        waited = len(self._waiting) - 1
        while self._waiting:
            kind, arguments = self._waiting[0]
            began = time.monotonic()
            try:
                self._send(kind, **arguments)
            except self._errors as error:
                if not is_final(error):
                    self._pause(error, time.monotonic() - began)
                    return
                self._refuse(kind, error)
            self._waiting.popleft()
        if self._down:
            say(f"{self._where} answers again; the {waited} log calls that waited are sent")
            self._down = False

    def _pause(self, error: Exception, took: float) -> None:
        self._last = cause(error)
        if not self._down:
            say(f"cannot write to {self._where} ({self._last}): the work goes on, and what is logged waits")
        self._down = True
        self._retry_at = time.monotonic() + max(1.0, PAUSE * took)

    def _refuse(self, kind: str, error: Exception) -> None:
        if cause(error) not in self._refused:
            self._refused.add(cause(error))
            say(f"{self._where} refuses {kind} for good, left out: {cause(error)}")
