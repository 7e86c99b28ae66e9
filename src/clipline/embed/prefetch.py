"""Iterate in a thread of its own, ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """An iterator over `items`, of which a thread of its own takes up to `max_ready` ahead (None: all that there are).

    What `items` raises is raised by the next `next`, even if items from before the error are still waiting. `close`
    ends the thread.
    """

    def __init__(self, items: Iterable[T], max_ready: int | None = None) -> None:
        self._ready: deque[T] = deque()
        self._max_ready = max_ready or float("inf")
        self._change = Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._fetch, args=(items,), name="prefetch", daemon=True)
        self._thread.start()

    def _fetch(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                with self._change:
                    self._change.wait_for(lambda: self._closed or len(self._ready) < self._max_ready)
                    if self._closed:
                        return
                    self._ready.append(item)
                    self._change.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by `__next__`, in the thread that can handle it
            self._error = error
        finally:
            if hasattr(items, "close"):
                items.close()
            with self._change:
                self._ended = True
                self._change.notify_all()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._change:
            self._change.wait_for(lambda: self._ended or self._ready)
            if self._error:
                raise self._error
            if not self._ready:
                raise StopIteration
            item = self._ready.popleft()
            self._change.notify_all()
            return item

    def __len__(self) -> int:
        """How many items are ready."""
        return len(self._ready)

    def close(self) -> None:
        """End the thread, unless `items` keeps it for longer than a second: it then ends when they let it go."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join(timeout=1)
