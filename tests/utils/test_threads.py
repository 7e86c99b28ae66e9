"""Results come in order, and no more items than allowed are taken from the stream."""

import threading
import time

import pytest

from clipline.utils.threads import map_ordered


def test_order_is_kept_though_work_is_not_even():
    def work(item: int) -> int:
        time.sleep(0.02 if item % 5 == 0 else 0)
        return item * item

    assert list(map_ordered(work, range(50), threads=4, ahead=8)) == [item * item for item in range(50)]


def test_no_more_is_begun_than_allowed():
    """The limit on memory: of a million items only `ahead` are begun before the first result is taken."""
    drawn = []
    results = map_ordered(str, (drawn.append(item) or item for item in range(1_000_000)), threads=2, ahead=5)
    assert drawn == []
    for taken in range(20):
        assert next(results) == str(taken)
        assert len(drawn) == taken + 5
    results.close()


def test_closing_ends_the_threads_and_drops_what_has_not_begun():
    before, begun = threading.active_count(), []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.05)

    results = map_ordered(work, range(100), threads=2, ahead=50)
    next(results)
    results.close()
    assert threading.active_count() == before
    assert len(begun) < 10


def test_threads_are_called_as_their_work():
    """Tools such as py-spy then show which of several stages is busy."""

    def resize(item: int) -> str:
        return threading.current_thread().name

    assert list(map_ordered(resize, [1], threads=1, ahead=1)) == ["resize_0"]


def test_an_error_of_the_work_is_raised_in_its_place():
    results = map_ordered(lambda item: 1 / item, [1, 2, 0, 4], threads=2, ahead=3)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
