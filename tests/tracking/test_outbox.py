"""The outbox alone, with a sender that fails on command."""

from __future__ import annotations

import pytest
from requests import HTTPError, Response

from clipline.tracking import outbox
from clipline.tracking.outbox import Outbox


class Sender:
    """Delivers into `sent`; fails while `error` is set."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.error: Exception | None = None
        self.tries = 0

    def __call__(self, kind: str, value: int) -> None:
        self.tries += 1
        if self.error:
            raise self.error
        self.sent.append(value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(outbox.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def sender() -> Sender:
    return Sender()


def test_what_failed_is_sent_later_and_in_order(sender, clock, capsys) -> None:
    box = Outbox(sender, (OSError,), "there")
    box.put("m", value=1)
    sender.error = ConnectionError("refused")
    box.put("m", value=2)
    box.put("m", value=3)
    assert sender.tries == 2  # the third waits for the pause to pass
    sender.error, clock[0] = None, clock[0] + 1.1
    box.put("m", value=4)
    assert sender.sent == [1, 2, 3, 4]
    assert box.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "cannot write to there (refused)" in lines[0]
    assert "answers again; the 2 log calls that waited are sent" in lines[1]


def test_a_slow_failure_is_seldom_tried_again(sender, clock) -> None:
    def hang(kind: str, value: int) -> None:
        clock[0] += 10
        sender.tries += 1
        raise TimeoutError("hangs")

    box = Outbox(hang, (OSError,), "there")
    for value in range(1000):
        clock[0] += 1
        box.put("m", value=value)
    assert sender.tries * 10 <= 0.06 * 1000


def test_close_tries_once_more_and_says_what_is_lost(sender, clock, capsys) -> None:
    box = Outbox(sender, (OSError,), "there")
    sender.error = ConnectionError("refused")
    box.put("m", value=1)
    assert not box.close()
    assert sender.tries == 2
    assert "1 log calls never reached there (refused)" in capsys.readouterr().err


def test_it_is_bounded_and_counts_what_it_drops(sender, clock, capsys, monkeypatch) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 5)
    box = Outbox(sender, (OSError,), "there")
    sender.error = ConnectionError("refused")
    for value in range(8):
        box.put("m", value=value)
    sender.error = None
    assert not box.close()
    assert sender.sent == [3, 4, 5, 6, 7]
    assert "3 log calls never reached there" in capsys.readouterr().err


def _http(status: int) -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(f"status {status}", response=response)


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), _http(400), _http(413)])
def test_a_refusal_holds_up_nothing_and_is_said_once(sender, clock, capsys, error) -> None:
    box = Outbox(sender, (OSError,), "there")
    sender.error = error
    box.put("m", value=1)
    box.put("m", value=2)
    sender.error = None
    box.put("m", value=3)
    assert sender.sent == [3]
    assert capsys.readouterr().err.count("refuses m for good") == 1


@pytest.mark.parametrize("error", [_http(500), _http(503), _http(429)])
def test_a_server_in_trouble_is_tried_again(sender, clock, error) -> None:
    box = Outbox(sender, (OSError,), "there")
    sender.error = error
    box.put("m", value=1)
    sender.error = None
    assert box.close()
    assert sender.sent == [1]


def test_other_errors_are_ours_and_come_through(sender) -> None:
    sender.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        Outbox(sender, (OSError,), "there").put("m", value=1)
