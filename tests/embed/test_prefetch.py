"""A thread that iterates ahead: in order, with its errors, and ended when it is closed."""

import threading
import time
from itertools import count

import pytest

from clipline.embed.prefetch import Prefetcher


def test_order_and_end():
    ahead = Prefetcher(iter(range(1000)))
    assert list(ahead) == list(range(1000))
    assert next(ahead, None) is next(ahead, None) is None
    ahead.close()


def test_it_does_not_wait_for_its_consumer():
    ahead = Prefetcher(iter(range(1000)))
    deadline = time.monotonic() + 10
    while len(ahead) < 1001 and time.monotonic() < deadline:  # and the end
        time.sleep(0.01)
    assert len(ahead) == 1001


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

    ahead = Prefetcher(items())
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


def test_a_limit_holds_the_thread_back_until_items_are_taken():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    ahead = Prefetcher(items(), max_ready=10)
    time.sleep(0.2)
    assert len(taken) == 11, "ten wait, and one for room"
    assert list(ahead) == list(range(100))


def test_close_ends_a_thread_that_waits_for_room():
    ended = threading.Event()

    def items():
        try:
            yield from count()
        finally:
            ended.set()

    ahead = Prefetcher(items(), max_ready=1)
    time.sleep(0.1)
    ahead.close()
    assert ended.wait(5)
