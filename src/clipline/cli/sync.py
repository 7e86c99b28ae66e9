"""`clipline sync`."""

from __future__ import annotations

import typer

EXAMPLES = (
    "**Examples**\n\n"
    "clipline sync\n\n"
    "MLFLOW_TRACKING_URI=http://tracker:5000 clipline sync\n\n"
    "**Exit codes**: 0 everything is sent, 1 some of it is not"
)


def sync() -> None:
    """Send to MLflow what stages kept on disk while its server was down.

    The next stage of a run sends what was kept for that run; this command is for runs that have no stage left to run.
    """
    from clipline import tracking

    run_ids = tracking.sync()
    for run_id in run_ids:
        typer.echo(f"sent: {run_id}")
    if not run_ids:
        typer.echo("nothing to send")
