"""`clipline runs`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from clipline.cli.options import JsonOption, usual_experiment
from clipline.errors import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from clipline.tracking.compare import Comparison, LoggedRun

# A hash of a commit or of data: its first digits are enough to tell it apart.
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
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Ids of runs, or their first characters.", show_default="the last"),
    ] = None,
    *,
    count: Annotated[int, typer.Option("-n", min=1, help="How many of the last runs to show, if no RUN is given.")] = 5,
    experiment: Annotated[
        str | None,
        typer.Option(help="The experiment in the tracking store.", show_default="that of params.yaml, else clipline"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show runs side by side: the settings that differ, and their results; the best recall in green.

    The store is mlflow.db in this repository, or MLFLOW_TRACKING_URI. `make ui` shows the same runs with their curves
    and pictures.
    """
    from rich.console import Console

    from clipline.cli.output import print_json, say
    from clipline.tracking import compare

    logged = compare.find_runs(experiment or usual_experiment(), ids or (), count=count)
    if as_json:
        print_json(compare.as_json(logged))
        return
    Console().print(table(logged))
    if len(logged) > 1:
        say(f"curves and pictures: make ui, then {compare.comparison_url(logged)}")


def table(runs: list[LoggedRun]) -> Table:
    """A table with one column for each run, and one row for each setting that differs and for each metric."""
    from rich.table import Table
    from rich.text import Text

    from clipline.tracking.compare import compare

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("run", overflow="fold")
    for run in runs:
        shown.add_column(Text(f"{printable(run.name)}\n{run.id[:8]}"), justify="right", overflow="fold")
    shown.add_row("started", *(f"{run.started:%Y-%m-%d %H:%M}" for run in runs))
    if len({run.status for run in runs}) > 1:
        shown.add_row("status", *(run.status for run in runs))
    shown.add_section()
    for line in compare(runs):
        shown.add_row(Text(printable(line.name)), *(_cell(line, index) for index in range(len(runs))))
    return shown


def _cell(line: Comparison, index: int) -> Text:
    """The value of one run, as text without rich's markup."""
    from rich.text import Text

    value = line.values[index]
    if value is None:
        return Text("-")
    if isinstance(value, float):
        return Text(f"{value:,.6g}", "green" if index in line.best else "")
    return Text(value[:12] if HASH.fullmatch(value) else printable(value))
