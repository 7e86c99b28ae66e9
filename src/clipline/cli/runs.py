"""`clipline runs`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from clipline.cli.options import usual_experiment

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from clipline.tracking.compare import Row, Summary

# Of a commit or of data: its beginning tells it apart.
HASH = re.compile(r"[0-9a-f]{40,64}")
EXAMPLES = (
    "**Examples**\n\n"
    "clipline runs\n\n"
    "clipline runs 3f2a 91bc\n\n"
    "clipline runs -n 20 --json | jq '.[].metrics'\n\n"
    "**Exit codes**: 0 done, 1 the store cannot be used, 2 no such run"
)


def runs(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids, or how they begin.", show_default="the last")
    ] = None,
    *,
    count: Annotated[int, typer.Option("-n", min=1, help="So many of the last runs, where no RUN is named.")] = 5,
    experiment: Annotated[
        str | None, typer.Option(help="Of the tracking store.", show_default="that of params.yaml, else clipline")
    ] = None,
    wanted_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show runs side by side: the settings that differ, and what came of them; the best recall in green.

    The store is mlflow.db in this repository, or MLFLOW_TRACKING_URI. `make ui` shows the same runs with their curves
    and pictures.
    """
    from rich.console import Console

    from clipline.tracking.compare import as_json, find_runs, page

    found = find_runs(experiment or usual_experiment(), ids or (), count=count)
    if wanted_json:
        typer.echo(json.dumps(as_json(found), indent=2, ensure_ascii=False))
        return
    Console().print(table(found))
    if len(found) > 1:
        typer.echo(f"curves and pictures: make ui, then {page(found)}", err=True)


def table(runs: list[Summary]) -> Table:
    """One column for each run, one line for each setting that differs and for each metric."""
    from rich.table import Table
    from rich.text import Text

    from clipline.tracking.compare import compare

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    drawn.add_column("run", overflow="fold")
    for run in runs:
        drawn.add_column(Text(f"{run.name}\n{run.id[:8]}"), justify="right", overflow="fold")
    drawn.add_row("started", *(f"{run.started:%Y-%m-%d %H:%M}" for run in runs))
    if len({run.status for run in runs}) > 1:
        drawn.add_row("status", *(run.status for run in runs))
    drawn.add_section()
    for row in compare(runs):
        drawn.add_row(Text(row.name), *(_cell(row, index) for index in range(len(runs))))
    return drawn


def _cell(row: Row, index: int) -> Text:
    """Names and values are not rich's markup."""
    from rich.text import Text

    value = row.values[index]
    if value is None:
        return Text("-")
    if isinstance(value, float):
        return Text(f"{value:,.6g}", "green" if index in row.best else "")
    return Text(value[:12] if HASH.fullmatch(value) else value)
