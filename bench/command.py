"""How a benchmark starts: its errors as one line, as those of `clipline`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from rich.console import Console

from clipline.errors import CliplineError


def launch(main: Callable[..., None]) -> None:
    """Run `main` with the command line's options. Exits as `clipline` would."""
    try:
        typer.run(main)
    except CliplineError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(error.exit_code)
