"""How commands and stages end: one line and an exit code, whatever was raised."""

import errno
import os
import sys
from pathlib import Path

import pytest

from clipline.errors import TooManyErrorsError, UsageError
from clipline.utils import entry


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("bad"), 2, "bad"),
        (TooManyErrorsError("many"), 3, "many"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
            1,
            "x: No such file or directory. Fix: make x",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "x"),
            1,
            "x: No space left on device. Fix: free some space there",
        ),
        (OSError("odd"), 1, f"below {Path.cwd()}: odd. Fix: see that path and its permissions"),
        (MemoryError(), 1, f"not enough memory. Fix: {entry.FEWER}"),
        (RuntimeError("CUDA out of memory"), 1, f"not enough memory. Fix: {entry.FEWER}"),
        (KeyboardInterrupt(), 130, None),
    ],
    ids=repr,
)
def test_an_error(error, code, line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        entry.run(main, "<{}>", missing="make x")
    assert (end.value.code, capsys.readouterr().err) == (code, f"<{line}>\n" if line else "")


def test_what_is_no_error_of_the_system_stays_one(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(RuntimeError, match="a bug"):
        entry.run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(SystemExit) as end:
        entry.run(os.getpid)
    assert end.value.code == os.getpid()
