"""`clipline promote`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipline.cli.options import usual_experiment

EXAMPLES = (
    "**Examples**\n\n"
    "clipline promote\n\n"
    "clipline promote 3f2a --margin 1 --dry-run\n\n"
    "clipline embed photos --model models:/clipline@champion --out embeddings\n\n"
    "**Exit codes**: 0 it is the champion, 1 refused, 2 bad usage"
)


def promote(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="Id of the MLflow run, or its first characters.", show_default="that of models/run.json"
        ),
    ] = None,
    *,
    name: Annotated[str, typer.Option(help="The registered model.")] = "clipline",
    margin: Annotated[float, typer.Option(min=0, help="How many points of mean R@1 it must be better by.")] = 0.5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, and print what would happen.")] = False,
) -> None:
    """Register a run's exported model and make it the champion, if it is better than the current one.

    The model must have passed its gates and be measured on the same test images and captions as the champion, and its
    R@1 (the mean of both directions, of the exported graphs) must be higher by the margin. Otherwise nothing changes.
    """
    from clipline.cli.output import say
    from clipline.registry.promote import promote as promote_run

    receipt, experiment = Path("models/run.json"), usual_experiment()
    done = promote_run(run, receipt=receipt, experiment=experiment, name=name, margin=margin, dry_run=dry_run)
    say(done, err=False)
