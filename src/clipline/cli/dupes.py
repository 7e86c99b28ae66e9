"""`clipline dupes`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clipline.dupes.show import Place
    from clipline.search.index import Index

EXAMPLES = (
    "**Examples**\n\n"
    "clipline dupes embeddings\n\n"
    "clipline dupes embeddings --gallery dupes.png\n\n"
    "clipline dupes embeddings --threshold 0.9 --csv dupes.csv\n\n"
    "clipline dupes embeddings | awk -F '\\t' '$2 != \"keep\"' | cut -f 7\n\n"
    "clipline dupes embeddings --outliers 20 --gallery outliers.png\n\n"
    "In a pipe each line is: group, verdict (keep, alike, same bytes), similarity, width, height, bytes, image; with "
    "--outliers: rank, similarity, width, height, bytes, image; separated by tabs. Nothing is ever deleted."
)
# Of 900 planted copies it finds those that are recompressed, mirrored, resized by half or cropped by a tenth (96% and
# more; docs/benchmarks.md). Other models may want another.
THRESHOLD = 0.93


def dupes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `clipline embed` wrote.")],
    *,
    threshold: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="From this similarity (cosine) on two images are nearly the same."),
    ] = THRESHOLD,
    outliers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Instead of duplicates: the N images least like the others."),
    ] = None,
    neighbours: Annotated[
        int, typer.Option(min=1, help="With --outliers: the likeness to so many nearest images counts.")
    ] = 10,
    gallery: Annotated[
        Path | None, typer.Option(help="Also draw them into this picture.", metavar="PICTURE.png")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Where the images are now, if they were moved.", show_default="where they were"),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per image here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find images that are nearly the same, and say which of each group to keep; or those unlike all others.

    To keep: the image with the most pixels, of those the one with the most bytes, else the first by path. Two shots of
    one scene may be as alike as two copies of one shot: look before you delete. No file is touched.
    """
    from clipline.pictures.gallery import check_path
    from clipline.search.index import Index
    from clipline.search.searcher import image_file, image_root

    if gallery:
        check_path(gallery)
    index = Index(folder)
    place = partial(image_file, image_root(index, root))
    for note in index.notes:
        typer.echo(f"note: {note}", err=True)

    if outliers:
        _outliers(index, place, outliers, neighbours, gallery, csv, as_json)
    else:
        _duplicates(index, place, threshold, gallery, csv, as_json)


def _duplicates(
    index: Index, place: Place, threshold: float, gallery: Path | None, csv: Path | None, as_json: bool
) -> None:
    import json

    from rich.console import Console

    from clipline.dupes import find, show

    groups = find.duplicates(index, threshold)
    console = Console()
    if as_json:
        found = {"threshold": threshold, "images": len(index), "groups": show.as_objects(groups, place)}
        typer.echo(json.dumps(found, indent=2))
    elif console.is_terminal and groups:
        show.print_table(groups, place, console)
    else:
        for line in show.lines(groups, place):
            typer.echo(line)
    others = [file for group in groups for file in group.others]
    size = sum(file.bytes for file in others) / 1e6
    typer.echo(
        f"{len(index):,} images: {len(groups):,} groups with {len(others):,} images ({size:,.1f} MB) beside those to "
        f"keep, at a similarity of {threshold:g} or more",
        err=True,
    )
    if csv:
        show.write_csv(csv, groups)
        typer.echo(f"written: {csv}", err=True)
    if gallery and not groups:
        typer.echo("note: no duplicates, so no picture", err=True)
    elif gallery:
        left_out = show.draw(groups, place, gallery)
        typer.echo(f"drawn: {gallery}" + (f", without {left_out:,} more groups" if left_out else ""), err=True)


def _outliers(
    index: Index, place: Place, count: int, neighbours: int, gallery: Path | None, csv: Path | None, as_json: bool
) -> None:
    import json

    from rich.console import Console

    from clipline.dupes import find, show

    files = find.outliers(index, count, neighbours)
    console = Console()
    if as_json:
        typer.echo(json.dumps(show.outlier_objects(files, place), indent=2))
    elif console.is_terminal:
        show.print_outliers(files, place, console)
    else:
        for line in show.outlier_lines(files, place):
            typer.echo(line)
    if csv:
        show.write_outliers(csv, files)
        typer.echo(f"written: {csv}", err=True)
    if gallery:
        show.draw_outliers(files, place, gallery, min(neighbours, len(index) - 1))
        typer.echo(f"drawn: {gallery}", err=True)
