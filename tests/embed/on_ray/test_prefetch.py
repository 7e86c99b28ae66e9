"""A walk that goes ahead: in order, only so far, with its errors, and ended when nobody wants it."""

import threading
import time
from itertools import count

import pytest

from clipline.embed.on_ray.prefetch import Prefetcher


def drain(ahead: Prefetcher) -> list[int]:
    found = []
    while some := ahead.take():
        found += some
    return found


def test_order_and_end():
    ahead = Prefetcher(iter(range(1000)), most=7)
    assert drain(ahead) == list(range(1000))
    assert ahead.take() == []
    ahead.close()


def test_it_goes_no_further_than_told():
    begun = []
    ahead = Prefetcher((begun.append(number) or number for number in count()), most=5)
    deadline = time.monotonic() + 10
    while len(begun) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(begun) == 6  # five, and the one that waits for room
    assert ahead.take() == [0, 1, 2, 3, 4]
    ahead.close()


def test_an_error_comes_after_what_came_before():
    def walk():
        yield from range(3)
        raise OSError("no more")

    ahead = Prefetcher(walk(), most=10)
    found = []
    with pytest.raises(OSError, match="no more"):
        while some := ahead.take():
            found += some
    assert found == [0, 1, 2]


def test_close_ends_the_walk():
    ended = threading.Event()

    def walk():
        try:
            yield from count()
        finally:
            ended.set()

    ahead = Prefetcher(walk(), most=2)
    ahead.close()
    assert ended.is_set()
