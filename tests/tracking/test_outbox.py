"""The outbox alone, with a sender that fails on command."""

from __future__ import annotations

import pytest
from requests import HTTPError, Response

from clipline.tracking import outbox
from clipline.tracking.outbox import Outbox
from clipline.tracking.receipt import Receipt
from clipline.tracking.spool import Spool


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


@pytest.fixture
def spool(repo) -> Spool:
    return Spool(Receipt(run_id="r1", name="x", started=0, params={}, tags={}))


def test_what_failed_is_sent_later_and_in_order(sender, spool, clock, capsys) -> None:
    box = Outbox(sender, (OSError,), "there", spool)
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


def test_a_slow_failure_is_seldom_tried_again(sender, spool, clock) -> None:
    def hang(kind: str, value: int) -> None:
        clock[0] += 10
        sender.tries += 1
        raise TimeoutError("hangs")

    box = Outbox(hang, (OSError,), "there", spool)
    for value in range(1000):
        clock[0] += 1
        box.put("m", value=value)
    assert sender.tries * 10 <= 0.06 * 1000


def test_close_tries_once_more_and_keeps_the_rest_on_disk(sender, spool, clock, capsys) -> None:
    box = Outbox(sender, (OSError,), "there", spool)
    sender.error = ConnectionError("refused")
    box.put("m", value=1)
    assert not box.close()
    assert sender.tries == 2
    assert f"1 log calls did not reach there (refused): they wait in {spool.folder}" in capsys.readouterr().err
    sender.error = None
    assert spool.send(sender) == 1
    assert sender.sent == [1] and not spool.folder.exists()


def test_a_full_disk_is_said_and_stops_nothing(sender, spool, clock, capsys, monkeypatch) -> None:
    def refuse(messages):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "keep", refuse)
    box = Outbox(sender, (OSError,), "there", spool)
    sender.error = ConnectionError("refused")
    box.put("m", value=1)
    assert not box.close()
    assert "1 log calls never reached there, nor the disk (No space left on device)" in capsys.readouterr().err


def test_what_waits_on_disk_is_sent_in_order_and_a_failure_keeps_the_rest(sender, spool) -> None:
    spool.keep([("m", {"value": 1}), ("m", {"value": 2})])
    spool.keep([("m", {"value": 3})])
    sender.error = ConnectionError("refused")
    with pytest.raises(ConnectionError):
        spool.send(sender)
    sender.error = None
    assert spool.send(sender) == 3
    assert sender.sent == [1, 2, 3]


def test_it_is_bounded_and_counts_what_it_drops(sender, spool, clock, capsys, monkeypatch) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 5)
    box = Outbox(sender, (OSError,), "there", spool)
    sender.error = ConnectionError("refused")
    for value in range(8):
        box.put("m", value=value)
    sender.error = None
    assert not box.close()
    assert sender.sent == [3, 4, 5, 6, 7]
    assert "3 log calls were too many to keep, and never reached there" in capsys.readouterr().err


def _http(status: int) -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(f"status {status}", response=response)


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), _http(400), _http(413)])
def test_a_refusal_holds_up_nothing_and_is_said_once(sender, spool, clock, capsys, error) -> None:
    box = Outbox(sender, (OSError,), "there", spool)
    sender.error = error
    box.put("m", value=1)
    box.put("m", value=2)
    sender.error = None
    box.put("m", value=3)
    assert sender.sent == [3]
    assert capsys.readouterr().err.count("refuses m for good") == 1


@pytest.mark.parametrize("error", [_http(500), _http(503), _http(429)])
def test_a_server_in_trouble_is_tried_again(sender, spool, clock, error) -> None:
    box = Outbox(sender, (OSError,), "there", spool)
    sender.error = error
    box.put("m", value=1)
    sender.error = None
    assert box.close()
    assert sender.sent == [1]


def test_other_errors_are_ours_and_come_through(sender, spool) -> None:
    sender.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        Outbox(sender, (OSError,), "there", spool).put("m", value=1)


@pytest.mark.parametrize("content", ["", "1", '["seal"]', "[" * 100_000, '{"kind": "log", "arguments": {}}'])
def test_a_damaged_message_is_left_out_and_the_others_are_sent(spool, capsys, content: str) -> None:
    spool.keep(("log", {"step": step}) for step in range(3))
    damaged = spool.folder / "000001.json"
    damaged.write_text(content)
    sent = []
    spool.send(lambda kind, **arguments: sent.append((kind, arguments)))
    assert sent == [("log", {"step": 0}), ("log", {"step": 2})]
    assert f"{damaged}: damaged (" in capsys.readouterr().err
    assert not spool.folder.exists()
