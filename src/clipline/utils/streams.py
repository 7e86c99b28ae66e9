"""stdin, stdout and stderr that are missing or full, or cannot hold a text: what is done never depends on them."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def standard_streams() -> Iterator[None]:
    """Give the process three streams that work, to its end. Raises SystemExit with 1 where text was lost in the block.

    A missing stream (cron, daemons, `>&-`) is /dev/null. Writing never fails: after an error, such as a full disk, what
    follows is dropped; at the block's end that is one line on stderr, and 1 in the place of the exit code 0. A reader
    that went away, such as `head`, is no error.
    """
    open_missing()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    sys.stdout, sys.stderr = _that_takes_all(sys.stdout), _that_takes_all(sys.stderr)
    try:
        yield
    except SystemExit as end:
        if end.code or not _lost():
            raise
    else:
        if not _lost():
            return
    sys.exit(1)


def nobody_reads() -> bool:
    """Whether what is printed on stdout from now on is dropped."""
    return _error(sys.stdout) is not None


def _error(stream: TextIO) -> OSError | None:
    """Why what is written to the stream is dropped; None where it is not."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw.error if isinstance(raw, _Sink) else None


def open_missing() -> None:
    """Open /dev/null for each stream that is missing, and for its file descriptor, which the next file would take."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _lost() -> bool:
    """Whether text could not be written to stdout or stderr; says so on stderr."""
    lost = False
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        stream.flush()
        error = _error(stream)
        if error and error.errno not in (errno.EPIPE, errno.ECONNRESET):
            lost = True
            print(f"error: {name}: {error.strerror}: not all could be printed", file=sys.stderr)  # noqa: T201
    return lost


class _Sink(io.RawIOBase):
    """A file that takes everything. error: the first one of the file below; from then on nothing is written there."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: bytes | memoryview) -> int:
        done, size = 0, len(data)
        while done < size and not self.error:
            try:
                count = self._raw.write(data[done:])
                if count is None:  # a pipe that does not block, and is full for now
                    select.select([], [self._raw], [])
            except OSError as error:
                self.error = error
            else:
                done += count or 0
        return size


def _that_takes_all(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The process's own stream over a _Sink; any other one as it is."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(raw, io.RawIOBase):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        _Sink(raw) if buffer is raw else io.BufferedWriter(_Sink(raw)),
        encoding=stream.encoding,
        errors="names-on-terminal" if raw.isatty() else "names",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _name(error: UnicodeEncodeError) -> tuple[bytes, int]:
    """Bytes of file names that are not text come out as they were; letters that the encoding lacks as escapes."""
    letters = error.object[error.start : error.end]
    is_byte = ["\udc80" <= letter <= "\udcff" for letter in letters]
    ways = ["surrogateescape" if byte else "backslashreplace" for byte in is_byte]
    return b"".join(letter.encode("ascii", way) for letter, way in zip(letters, ways, strict=True)), error.end


def _name_on_terminal(error: UnicodeEncodeError) -> tuple[str, int]:
    r"""The same, but no byte that is not text reaches a terminal: \xe9."""
    raw, end = _name(error)
    return raw.decode("ascii", "backslashreplace"), end


codecs.register_error("names", _name)
codecs.register_error("names-on-terminal", _name_on_terminal)
