"""Show near-duplicates and outliers: a table for people, lines for pipes, JSON for programs, a CSV, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipline.dupes.find import File, Group
from clipline.embeddings.paths import printable
from clipline.errors import CliplineError
from clipline.pictures import gallery
from clipline.search.searcher import why_gone
from clipline.utils.files import output

# From a path of the embeddings to what opens from here.
Place = Callable[[str], Path | str]

KEEP, ALIKE, SAME = "keep", "alike", "same bytes"
GREEN = "#18783c"
GROUPS, FILES = 24, 7  # in a picture: more are no looking
COLUMNS = ("group", "verdict", "similarity", "width", "height", "bytes", "path")
OUTLIER_COLUMNS = ("rank", "similarity", "width", "height", "bytes", "path")


def rows(groups: list[Group]) -> Iterator[tuple[int, str, File]]:
    """(number of the group from 1, verdict, file), the one to keep first."""
    for number, group in enumerate(groups, 1):
        yield number, KEEP, group.keep
        for file in group.others:
            yield number, SAME if file.same else ALIKE, file


def lines(groups: list[Group], place: Place) -> Iterator[str]:
    """`group <tab> verdict <tab> similarity <tab> width <tab> height <tab> bytes <tab> file`."""
    for number, verdict, file in rows(groups):
        yield f"{number}\t{verdict}\t{_values(file)}\t{place(file.path)}"


def outlier_lines(files: list[File], place: Place) -> Iterator[str]:
    """`rank <tab> similarity <tab> width <tab> height <tab> bytes <tab> file`."""
    for rank, file in enumerate(files, 1):
        yield f"{rank}\t{_values(file)}\t{place(file.path)}"


def as_objects(groups: list[Group], place: Place) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {"keep": _object(group.keep, place), "others": [_object(file, place) for file in group.others]}
        for group in groups
    ]


def outlier_objects(files: list[File], place: Place) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"rank": rank, **_object(file, place)} for rank, file in enumerate(files, 1)]


def print_table(groups: list[Group], place: Place, console: Console) -> None:
    """All groups, a line between them."""
    table = Table()
    table.add_column("group", justify="right")
    table.add_column("verdict")
    for name in ("similarity", "pixels", "kB"):
        table.add_column(name, justify="right")
    table.add_column("image", overflow="fold")
    last = 0
    for number, verdict, file in rows(groups):
        if number != last and last:
            table.add_section()
        style = "green" if verdict == KEEP else ""
        table.add_row(str(number) * (number != last), verdict, *_cells(file), _shown(place(file.path)), style=style)
        last = number
    console.print(table)


def print_outliers(files: list[File], place: Place, console: Console) -> None:
    """The strangest first."""
    table = Table()
    for name in ("rank", "similarity", "pixels", "kB"):
        table.add_column(name, justify="right")
    table.add_column("image", overflow="fold")
    for rank, file in enumerate(files, 1):
        table.add_row(str(rank), *_cells(file), _shown(place(file.path)))
    console.print(table)


def write_csv(path: Path, groups: list[Group]) -> None:
    """A row per file. Raises CliplineError."""
    _write(path, COLUMNS, ((number, verdict, *_figures(file), file.path) for number, verdict, file in rows(groups)))


def write_outliers(path: Path, files: list[File]) -> None:
    """A row per file. Raises CliplineError."""
    _write(path, OUTLIER_COLUMNS, ((rank, *_figures(file), file.path) for rank, file in enumerate(files, 1)))


def draw(groups: list[Group], place: Place, path: Path) -> int:
    """The first GROUPS groups, a row for each, the file to keep framed. Returns how many groups are left out."""
    drawn = []
    for number, group in enumerate(groups[:GROUPS], 1):
        cells = [_cell(group.keep, place, f"{KEEP}: {_size(group.keep)}", GREEN)]
        cells += [
            _cell(file, place, f"{SAME if file.same else ALIKE} {file.similarity:.3f}: {_size(file)}")
            for file in group.others[: FILES - 1]
        ]
        more = len(group.others) + 1 - len(cells)
        title = f"group {number}: {len(group.others) + 1} images" + (f", {more} of them not shown" if more else "")
        drawn.append(gallery.Row(title, cells))
    gallery.draw(drawn, path)
    return max(0, len(groups) - GROUPS)


def draw_outliers(files: list[File], place: Place, path: Path, neighbours: int) -> None:
    """A grid, the strangest first."""
    cells = [_cell(file, place, f"{rank}.  {file.similarity:.3f}") for rank, file in enumerate(files, 1)]
    title = f"least like the others (mean similarity to the {neighbours} likest)"
    gallery.draw([gallery.Row(title, cells)], path, columns=gallery.grid(len(cells)))


def _cell(file: File, place: Place, caption: str, frame: str | None = None) -> gallery.Cell:
    found = place(file.path)
    if not Path(found).is_file():
        raise CliplineError(f"{found}: {why_gone(found)}")
    return gallery.Cell(Path(found), f"{caption} {Path(file.path).name}", frame)


def _size(file: File) -> str:
    return f"{file.width} x {file.height}, {file.bytes / 1000:,.0f} kB"


def _figures(file: File) -> tuple[str, int, int, int]:
    return f"{file.similarity:.4f}", file.width, file.height, file.bytes


def _values(file: File) -> str:
    return "\t".join(map(str, _figures(file)))


def _cells(file: File) -> tuple[str, str, str]:
    return f"{file.similarity:.4f}", f"{file.width} x {file.height}", f"{file.bytes / 1000:,.0f}"


def _shown(found: Path | str) -> Text:
    return Text(printable(str(found)))  # names are not rich's markup


def _object(file: File, place: Place) -> dict[str, Any]:
    return {
        "path": file.path,
        "file": str(place(file.path)),
        "similarity": round(file.similarity, 6),
        "width": file.width,
        "height": file.height,
        "bytes": file.bytes,
        "same_bytes": file.same,
    }


def _write(path: Path, names: tuple[str, ...], found: Iterator[tuple]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(found)
    with output(path) as file:
        file.write(text.getvalue().encode())
