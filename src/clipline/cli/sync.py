"""`clipline sync`."""

from __future__ import annotations

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
    from clipline.cli.output import say

    run_ids = tracking.sync()
    for run_id in run_ids:
        say(f"sent: {run_id}", err=False)
    if not run_ids:
        say("nothing to send", err=False)
