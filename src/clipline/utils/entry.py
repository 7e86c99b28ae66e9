"""How a command or a stage begins and ends: its streams, its errors, its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clipline import errors
from clipline.errors import CliplineError, first_line, out_of_memory
from clipline.utils.remedies import remedy
from clipline.utils.streams import standard_streams

FEWER = "lower --threads or --batch-size, or end other programs"


def run(
    main: Callable[[], int | None],
    error_line: str = "error: {}",
    *,
    missing: str = "correct the path",
    memory: str = FEWER,
) -> None:
    """Call `main` and exit with what it returns. Errors that a person can fix are a message without a traceback.

    error_line: how the message of a CliplineError is printed on stderr; its exit code is the process's. missing,
    memory: what helps where a file is missing, and where memory is too small.
    """
    with standard_streams():
        sys.excepthook = errors.hook
        try:
            with _readable_errors(missing, memory):
                code = main()
        except CliplineError as error:
            print(error_line.format(error), file=sys.stderr, flush=True)  # noqa: T201
            code = error.exit_code
        except KeyboardInterrupt:
            code = 130
        sys.exit(code)


@contextmanager
def _readable_errors(missing: str, memory: str) -> Iterator[None]:
    """Turn the system's errors, and a lack of memory in any library's words, into a CliplineError with its fix."""
    try:
        yield
    except OSError as error:
        fix = missing if isinstance(error, FileNotFoundError) else remedy(error)
        where = error.filename or f"below {Path.cwd()}"
        raise CliplineError(f"{where}: {error.strerror or first_line(error)}. Fix: {fix}") from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise CliplineError(f"not enough memory. Fix: {memory}") from error
