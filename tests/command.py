"""The command line in this process."""

from __future__ import annotations

from types import SimpleNamespace

from typer.testing import CliRunner

from clipline.cli import app
from clipline.errors import CliplineError


def run(*arguments: object) -> SimpleNamespace:
    """`clipline` with these arguments: code, out, err, and error, what `main` would print."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    code, error = done.exit_code, ""
    if isinstance(done.exception, CliplineError):
        code, error = done.exception.exit_code, str(done.exception)
    elif done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return SimpleNamespace(code=code, out=done.stdout, err=done.stderr, error=error)
