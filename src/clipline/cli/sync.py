"""`clipline sync`."""

from __future__ import annotations

import typer

EXAMPLES = (
    "**Examples**\n\n"
    "clipline sync\n\n"
    "MLFLOW_TRACKING_URI=http://tracker:5000 clipline sync\n\n"
    "**Exit codes**: 0 all is sent, 1 some of it is not"
)


def sync() -> None:
    """Send to MLflow what waits on disk since its server was down.

    The next stage of a run sends what waits for that run by itself; this is for runs whose stages are all done.
    """
    from clipline import tracking

    sent = tracking.sync()
    for run in sent:
        typer.echo(f"sent: {run}")
    if not sent:
        typer.echo("nothing to send")
