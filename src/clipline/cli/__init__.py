"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from clipline.cli import app as web_page
from clipline.cli import classify, doctor, dupes, embed, match, promote, runs, search, sync
from clipline.errors import UsageError
from clipline.utils import entry
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
    """Entry point: errors that the user can fix are one line and an exit code, not a traceback."""
    ensure_name_and_home()
    # As with Ctrl-C, temporary files are removed before the process ends.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    entry.run(_command)


def _command() -> int | None:
    """Run the command of sys.argv. Returns its exit code. Raises CliplineError."""
    try:
        return app(prog_name="clipline", standalone_mode=False)
    except typer.Abort:
        return 1
    except Exception as error:
        # Typer has click's errors of usage in modules of its own, with private names.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # it has printed the help
            return 2
        words = " ".join(error.format_message().split()).rstrip(".")
        command = error.ctx.command_path if getattr(error, "ctx", None) else "clipline"
        raise UsageError(f"{words}. Fix: see {command} --help") from None
