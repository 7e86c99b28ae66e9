"""Map a function over a stream with threads: results in order, and a limit on the items in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


def map_ordered(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """Yield `function(item)` of all items in order, with at most `ahead` of them begun or waiting to be taken.

    Close the iterator to stop early: items that have not begun are dropped. Raises what `function` raises.
    """
    pool = ThreadPoolExecutor(threads, getattr(function, "__name__", ""))
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
