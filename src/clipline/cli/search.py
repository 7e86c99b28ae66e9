"""`clipline search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipline.cli.options import ProviderName, ProviderOption, model_option

EXAMPLES = (
    "**Examples**\n\n"
    'clipline search embeddings "two dogs play in the snow"\n\n'
    'clipline search embeddings "people sitting near the beach" -n 9 --gallery beach.png\n\n'
    'clipline search embeddings "a red car" "a boat" --json\n\n'
    'clipline search embeddings "a red car" | cut -f 3\n\n'
    "In a pipe each line is: rank, score, path, query, separated by tabs."
)


def search(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `clipline embed` wrote.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="What to look for, in words.")],
    *,
    n: Annotated[int, typer.Option("-n", min=1, help="Images per query.")] = 9,
    model: Annotated[Path | None, model_option("The model that embedded them.", show_default="that of DIR")] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Also draw the images found into this picture.", metavar="PICTURE.png")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Where the images are now, if they were moved.", show_default="where they were"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    provider: ProviderOption = ProviderName.cpu,
) -> None:
    """Find the images that fit a description, best first, with their scores (cosine, 1 is the best)."""
    from rich.console import Console

    from clipline.gallery import check_path
    from clipline.search import show
    from clipline.search.query import search as find

    if gallery:
        check_path(gallery)
    found = find(folder, queries, n, model=model, root=root, provider=provider.value)
    console = Console()
    if as_json:
        typer.echo(show.to_json(found.answers))
    elif console.is_terminal:
        show.print_table(found.answers, console)
    else:
        for line in show.lines(found.answers):
            typer.echo(line)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if gallery:
        show.draw(found.answers, gallery)
        typer.echo(f"drawn: {gallery}", err=True)
