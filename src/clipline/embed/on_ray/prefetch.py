"""Walk an iterable in a thread of its own, some way ahead of whoever takes from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from threading import Condition, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """What `items` gave and nobody has taken yet, at most `most`; then the walk waits. `close` ends it."""

    def __init__(self, items: Iterable[T], most: int) -> None:
        self._ready: deque[T] = deque()
        self._most = most
        self._change = Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._walk, args=(items,), name="ahead", daemon=True)
        self._thread.start()

    def _walk(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                with self._change:
                    self._change.wait_for(lambda: self._closed or len(self._ready) < self._most)
                    if self._closed:
                        return
                    self._ready.append(item)
                    self._change.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by `take`, in the thread that can handle it
            self._error = error
        finally:
            if hasattr(items, "close"):
                items.close()
            with self._change:
                self._ended = True
                self._change.notify_all()

    def take(self) -> list[T]:
        """All that is ready, after a wait for the first; empty at the end.

        Raises what the walk raised, after all that came before.
        """
        with self._change:
            self._change.wait_for(lambda: self._ended or self._ready)
            found = list(self._ready)
            self._ready.clear()
            self._change.notify_all()
        if not found and self._error:
            raise self._error
        return found

    def close(self) -> None:
        """End the walk, and wait until it has."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join()
