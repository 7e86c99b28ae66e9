"""A thread that iterates ahead: in order, only so far, with its errors, and ended when it is closed."""

import threading
import time
from itertools import count

import pytest

from clipline.embed.prefetch import Prefetcher


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("max_ready", [7, None])
def test_order_and_end(max_ready):
    ahead = Prefetcher(iter(range(1000)), max_ready)
    assert list(ahead) == list(range(1000))
    assert next(ahead, None) is None
    ahead.close()


def test_it_goes_no_further_than_its_limit():
    begun = []
    ahead = Prefetcher((begun.append(number) or number for number in count()), 5)
    wait_for(lambda: len(begun) == 6)
    time.sleep(0.05)
    assert len(begun) == 6  # five, and the one that waits for room
    assert len(ahead) == 5
    assert next(ahead) == 0
    ahead.close()


def test_an_error_is_raised_before_what_still_waits():
    failed = threading.Event()

    def items():
        try:
            yield from range(3)
            raise OSError("no more")
        finally:
            failed.set()

    ahead = Prefetcher(items())
    failed.wait(10)
    ahead.close()
    with pytest.raises(OSError, match="no more"):
        next(ahead)


def test_close_ends_the_thread():
    ended = threading.Event()

    def items():
        try:
            yield from count()
        finally:
            ended.set()

    ahead = Prefetcher(items(), 2)
    ahead.close()
    assert ended.is_set()


def test_close_does_not_wait_for_a_call_that_hangs():
    go_on = threading.Event()

    def items():
        go_on.wait(30)
        yield 1

    ahead = Prefetcher(items())
    begun = time.monotonic()
    ahead.close()
    assert time.monotonic() - begun < 10
    go_on.set()
