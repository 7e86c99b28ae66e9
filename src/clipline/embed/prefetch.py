"""Iterate in a thread of its own, ahead of the consumer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from queue import Empty, Queue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()


class Prefetcher(Generic[T]):
    """An iterator over `items`, which a thread of its own iterates, at most `max_ready` items ahead of the consumer.

    max_ready: 0 sets no limit. What `items` raises is raised by the next `next`, even if items from before the error
    are still waiting. `close` ends the thread.
    """

    def __init__(self, items: Iterable[T], max_ready: int = 0) -> None:
        self._ready: Queue = Queue(max_ready)
        self._closed = self._ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._fetch, args=(items,), name="prefetch", daemon=True)
        self._thread.start()

    def _fetch(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                if self._closed:
                    break
                self._ready.put(item)
        except BaseException as error:  # noqa: BLE001 - raised again by `__next__`, in the thread that can handle it
            self._error = error
        if not self._closed:
            self._ready.put(_END)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item = _END if self._ended else self._ready.get()
        if self._error:
            raise self._error
        if item is _END:
            self._ended = True
            raise StopIteration
        return item

    def __len__(self) -> int:
        """How many items are ready, counting the end as one."""
        return self._ready.qsize()

    def close(self) -> None:
        """End the thread, unless `items` keeps it for longer than a second: it then ends when they let it go."""
        self._closed = self._ended = True
        with contextlib.suppress(Empty):
            while True:  # the thread may be waiting for room
                self._ready.get_nowait()
        self._thread.join(timeout=1)
