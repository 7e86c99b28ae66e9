"""What every stage does at its edge: errors become one clear message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clipline import errors
from clipline.errors import CliplineError, out_of_memory
from clipline.utils.files import locked

BUSY = "another stage runs here, perhaps of a `dvc` that was killed. Fix: wait until it ends, then run again"


def say(text: str) -> None:
    """One line of the stage's own output."""
    print(text, flush=True)  # noqa: T201


def run_stage(main: Callable[[], None]) -> None:
    """Call `main`; print what a person can fix without a traceback, and leave with the exit code that goes with it."""
    sys.excepthook = errors.hook
    # A hub that cannot be reached must fail within seconds, not wait: nobody may be looking.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    try:
        with _alone(), _in_words():
            main()
    except CliplineError as error:
        print(f"\n{Path(sys.argv[0]).stem}: error: {error}\n", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def _alone() -> Iterator[None]:
    """One stage at a time in a working folder: a stage goes on when the `dvc` that started it is killed.

    Of processes that train one model together the first holds the folder: whoever started them has become another
    program. Raises CliplineError where a stage runs already.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    with locked(Path.cwd(), BUSY):
        yield


@contextmanager
def _in_words() -> Iterator[None]:
    """The disk's and the memory's refusals, from whatever library, as a CliplineError with the fix."""
    try:
        yield
    except FileNotFoundError as error:
        raise CliplineError(f"{error.filename}: no such file. Fix: dvc repro, which runs the stages before") from error
    except OSError as error:
        where = error.filename or f"below {Path.cwd()}"
        raise CliplineError(
            f"{where}: {error.strerror or error}. Fix: free some room, or fix that place and its permissions; then "
            "run again: what was finished is kept"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise CliplineError(
            "not enough memory. Fix: end other programs, or lower train.batch_size in the recipe, or the stage's "
            "batch_size in params.yaml; then run again: what was finished is kept"
        ) from error
