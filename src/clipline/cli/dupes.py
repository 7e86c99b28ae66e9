"""`clipline dupes`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from clipline.cli.options import CsvOption, FolderArgument, JsonOption, Print0Option, RootOption

EXAMPLES = (
    "**Examples**\n\n"
    "clipline dupes embeddings\n\n"
    "clipline dupes embeddings --gallery dupes.png\n\n"
    "clipline dupes embeddings --threshold 0.9 --csv dupes.csv\n\n"
    "clipline dupes embeddings | awk -F '\\t' '$2 != \"keep\"' | cut -f 7\n\n"
    "clipline dupes embeddings -0 | xargs -0 ls -l\n\n"
    "clipline dupes embeddings --outliers 20 --gallery outliers.png\n\n"
    "In a pipe each line is: group, verdict (keep, alike, same bytes), similarity, width, height, bytes, image; with "
    "--outliers: rank, similarity, width, height, bytes, image; separated by tabs; control characters "
    "in names are escaped. With -0: the files themselves, without those to keep. Nothing is ever deleted."
)
# Of 900 planted copies it finds 96% or more of those that are recompressed, mirrored, resized by half or cropped by a
# tenth (docs/benchmarks.md). Other models may need another one.
THRESHOLD = 0.93


def dupes(
    folder: FolderArgument,
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
        int, typer.Option(min=1, help="With --outliers: how many nearest images the mean is over.")
    ] = 10,
    gallery: Annotated[
        Path | None, typer.Option(help="Also draw them into this picture.", metavar="PICTURE.png")
    ] = None,
    root: RootOption = None,
    csv: CsvOption = None,
    as_json: JsonOption = False,
    print0: Print0Option = False,
) -> None:
    """Find images that are nearly the same, and say which of each group to keep; or those unlike all others.

    To keep: the image with the most pixels, of those the one with the most bytes, else the first by path. Two shots of
    one scene may be as similar as two copies of one shot: look before you delete. No file is touched.
    """
    from clipline.cli.output import check_print0, print_files, print_notes, print_results, say
    from clipline.dupes import find, show
    from clipline.pictures.gallery import check_path
    from clipline.search.index import Index
    from clipline.search.searcher import image_file, image_root

    check_print0(print0, as_json)
    if gallery:
        check_path(gallery)
    index = Index(folder)
    file_of = partial(image_file, image_root(index, root))
    print_notes(index.notes)
    if outliers:
        files = find.outliers(index, outliers, neighbours)
        entries, content = show.outlier_entries(files), show.outlier_objects(files, file_of)
    else:
        groups = find.duplicates(index, threshold)
        entries = show.group_entries(groups)
        content = {"threshold": threshold, "images": len(index), "groups": show.group_objects(groups, file_of)}
    if print0:
        print_files(show.files(entries, file_of))
    else:
        print_results(as_json, content, partial(show.print_table, entries, file_of), show.lines(entries, file_of))
    if not outliers:
        say(show.summary(len(index), groups, threshold))
    if csv:
        show.write_csv(csv, entries)
        say(f"written: {csv}")
    if gallery and outliers:
        show.draw_outliers(files, file_of, gallery, min(neighbours, len(index) - 1))
        say(f"drawn: {gallery}")
    elif gallery and groups:
        left_out = show.draw(groups, file_of, gallery)
        say(f"drawn: {gallery}" + (f", without {left_out:,} more groups" if left_out else ""))
    elif gallery:
        print_notes(["no duplicates, so no picture"])
