"""What several commands print in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from os import fsencode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipline.errors import UsageError, escape

if TYPE_CHECKING:
    from rich.console import Console


def say(line: object, *, err: bool = True) -> None:
    """Print one line on stderr, or else on stdout."""
    typer.echo(escape(line), err=err)


def print_json(content: Any) -> None:
    """Print JSON on stdout, in ASCII: names that are no text come out as `\\udce9`, as Python reads them."""
    typer.echo(json.dumps(content, indent=2))


def print_files(files: Iterable[Path | str]) -> None:
    """Print names of files on stdout as they are, each with NUL after it, for `xargs -0`."""
    for file in files:
        typer.echo(fsencode(file) + b"\0", nl=False)


def check_print0(print0: bool, as_json: bool) -> None:
    """Raise UsageError where both are asked for."""
    if print0 and as_json:
        raise UsageError("--print0 and --json cannot both be used")


def print_results(as_json: bool, content: Any, print_table: Callable[[Console], None], lines: Iterable[str]) -> None:
    """Print results on stdout: the `content` as JSON, or a table in a terminal, or `lines` in a pipe."""
    from rich.console import Console

    console = Console()
    if as_json:
        print_json(content)
    elif console.is_terminal:
        print_table(console)
    else:
        for line in lines:
            typer.echo(line)  # its columns are escaped


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on stderr, a line each; indented ones belong to the one before."""
    for note in notes:
        say(note if note.startswith(" ") else f"note: {note}")
