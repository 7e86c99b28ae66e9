"""`clipline doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipline.cli.options import JsonOption, PrecisionName, ProviderName, ProviderOption, ThreadsOption, model_option

EXAMPLES = (
    "**Examples**\n\n"
    "clipline doctor\n\n"
    "clipline doctor --model models/onnx --provider cuda\n\n"
    "clipline doctor photos --model models/onnx\n\n"
    "**Exit codes**: 0 OK, 1 there are problems, 2 bad usage"
)


def doctor(
    images: Annotated[
        str | None,
        typer.Argument(metavar="[IMAGES]", help="Photos to measure with: a folder, or what else embed takes."),
    ] = None,
    *,
    model: Annotated[
        Path | None, model_option("The exported model: checks its files, shows where its nodes run.")
    ] = None,
    provider: ProviderOption = ProviderName.auto,
    precision: Annotated[
        PrecisionName, typer.Option(help="Precision of the image graph to measure.")
    ] = PrecisionName.fp32,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is installed, what runs, and with IMAGES how many of them each stage processes per second."""
    from clipline.cli.output import print_json, say
    from clipline.doctor.report import examine
    from clipline.embed.sources import open_source

    source = open_source(images) if images else None
    report = examine(source, model, provider=provider.value, precision=precision.value, threads=threads)
    if as_json:
        print_json(report.json())
    else:
        for line in report.lines():
            say(line, err=False)
    if report.problems:
        raise typer.Exit(1)
