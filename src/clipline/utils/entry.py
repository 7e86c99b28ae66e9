"""How a command or a stage begins and ends: its streams, its errors, its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from clipline import errors
from clipline.errors import CliplineError
from clipline.utils.streams import standard_streams


def run(main: Callable[[], int | None], error_line: str = "error: {}") -> None:
    """Call `main` and exit with what it returns. Errors that a person can fix are a message without a traceback.

    error_line: how the message of a CliplineError is printed on stderr; its exit code is the process's.
    """
    with standard_streams():
        sys.excepthook = errors.hook
        try:
            code = main()
        except CliplineError as error:
            print(error_line.format(error), file=sys.stderr, flush=True)  # noqa: T201
            code = error.exit_code
        except KeyboardInterrupt:
            code = 130
        sys.exit(code)
