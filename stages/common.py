"""What every stage does at its edge: errors become one clear message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from clipline.errors import CliplineError


def say(text: str) -> None:
    """One line of the stage's own output."""
    print(text, flush=True)  # noqa: T201


def run_stage(main: Callable[[], None]) -> None:
    """Call `main`; print a CliplineError without a traceback and leave with its exit code."""
    # A hub that cannot be reached must fail within seconds, not wait: nobody may be looking.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    try:
        main()
    except CliplineError as error:
        print(f"\n{Path(sys.argv[0]).stem}: error: {error}\n", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
