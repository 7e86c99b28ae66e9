"""What several commands print in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def print_results(as_json: bool, content: Any, print_table: Callable[[Console], None], lines: Iterable[str]) -> None:
    """Print results on stdout: the `content` as JSON, or a table in a terminal, or `lines` in a pipe."""
    from rich.console import Console

    console = Console()
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    elif console.is_terminal:
        print_table(console)
    else:
        for line in lines:
            typer.echo(line)


def print_notes(notes: Iterable[str | None]) -> None:
    """Print notes on stderr, a line each."""
    for note in filter(None, notes):
        typer.echo(f"note: {note}", err=True)
