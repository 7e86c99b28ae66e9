"""The lines that a log has of long work."""

from io import StringIO

import pytest
from rich.console import Console

from clipline.utils import progress
from clipline.utils.progress import Bar


@pytest.fixture
def clock(monkeypatch):
    """clock[0]: the time, in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then_with_the_time_left(clock, capsys):
    with Bar("training", 100, "steps") as bar:
        bar.advance(10)
        assert capsys.readouterr().err == ""  # too early
        clock[0] += 20
        bar.advance(10, "epoch 2")
    assert capsys.readouterr().err.splitlines()[0] == "training: 20 of 100 steps, 80 s left  epoch 2"


def test_what_an_earlier_process_did_says_nothing_about_the_speed(clock, capsys):
    with Bar("training", 100, "steps", done=90) as bar:
        clock[0] += 20
        bar.advance(2)
    assert capsys.readouterr().err.splitlines()[0] == "training: 92 of 100 steps, 80 s left"


def test_a_total_that_becomes_known_later(clock, capsys):
    with Bar("embedding", None, "images") as bar:
        clock[0] += 20
        bar.advance(10)
        bar.set_total(40)
        clock[0] += 20
        bar.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["embedding: 10 images", "embedding: 20 of 40 images, 40 s left"]


def test_names_are_no_markup():
    screen = StringIO()
    with Bar("a[/x]", 3, console=Console(file=screen, force_terminal=True, width=120)) as bar:
        bar.advance(1, note="[/y]")
    assert "a[/x]" in screen.getvalue() and "[/y]" in screen.getvalue()
