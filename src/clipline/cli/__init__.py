"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from clipline import errors
from clipline.cli import app as web_page
from clipline.cli import classify, doctor, dupes, embed, match, promote, runs, search, sync
from clipline.errors import CliplineError
from clipline.utils.user import ensure_name_and_home

app = typer.Typer(
    name="clipline",
    help="Embed folders of images with your exported CLIP model, and search them in words.",
    epilog="**Examples**\n\n"
    "clipline embed photos --model models/onnx --out embeddings\n\n"
    'clipline search embeddings "two dogs play in the snow" -n 9 --gallery dogs.png',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"clipline {version('clipline')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for module in (embed, search, classify, match, dupes, web_page, doctor, runs, promote, sync):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=module.EXAMPLES)(getattr(module, name))


def main() -> None:
    """Entry point: errors that the user can fix are one message and an exit code, not a traceback."""
    # File names may hold bytes that are not UTF-8: print them unchanged.
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
    sys.excepthook = errors.hook
    ensure_name_and_home()
    # As with Ctrl-C, temporary files are removed before the process ends.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except CliplineError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
