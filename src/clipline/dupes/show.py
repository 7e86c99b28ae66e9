"""Print near-duplicates and outliers: a table for terminals, lines for pipes, JSON for programs, a CSV, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipline.dupes.find import File, Group
from clipline.errors import CliplineError, escape, printable
from clipline.pictures import gallery
from clipline.search.searcher import why_gone
from clipline.utils.files import output

FileOf = Callable[[str], Path | str]
"""A path of the embeddings -> the file to open from the current folder, or a URL."""

KEEP, ALIKE, SAME = "keep", "alike", "same bytes"
GREEN = "#18783c"
GROUPS, FILES = 24, 7  # in a picture: more do not fit a page


class Entry(NamedTuple):
    """A line of output. position: the number of the group and the verdict, or the rank of an outlier."""

    position: tuple[int, str] | tuple[int]
    file: File

    @property
    def starts_group(self) -> bool:
        """Whether it is the first one of a group: the file to keep."""
        return KEEP in self.position


def group_entries(groups: list[Group]) -> list[Entry]:
    """The files of all groups, numbered from 1; of each group the one to keep first."""
    entries = []
    for number, group in enumerate(groups, 1):
        entries.append(Entry((number, KEEP), group.keep))
        entries += [Entry((number, _verdict(file)), file) for file in group.others]
    return entries


def outlier_entries(files: list[File]) -> list[Entry]:
    """The files with their ranks from 1."""
    return [Entry((rank,), file) for rank, file in enumerate(files, 1)]


def lines(entries: list[Entry], file_of: FileOf) -> Iterator[str]:
    """`group <tab> verdict`, or `rank`, then `<tab> similarity <tab> width <tab> height <tab> bytes <tab> file`."""
    for entry in entries:
        yield "\t".join(map(escape, (*entry.position, *_figures(entry.file), file_of(entry.file.path))))


def files(entries: list[Entry], file_of: FileOf) -> Iterator[Path | str]:
    """Of each group the files beside the one to keep; of outliers all."""
    return (file_of(entry.file.path) for entry in entries if not entry.starts_group)


def summary(images: int, groups: list[Group], threshold: float) -> str:
    """One line on all groups."""
    others = [file for group in groups for file in group.others]
    size = sum(file.bytes for file in others) / 1e6
    return (
        f"{images:,} images: {len(groups):,} groups with {len(others):,} images ({size:,.1f} MB) beside those to "
        f"keep, at a similarity of {threshold:g} or more"
    )


def group_objects(groups: list[Group], file_of: FileOf) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {"keep": _object(group.keep, file_of), "others": [_object(file, file_of) for file in group.others]}
        for group in groups
    ]


def outlier_objects(files: list[File], file_of: FileOf) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"rank": rank, **_object(file, file_of)} for rank, file in enumerate(files, 1)]


def print_table(entries: list[Entry], file_of: FileOf, console: Console) -> None:
    """Print a table of all entries, with a line between groups; nothing where there are none."""
    if not entries:
        return
    table = Table()
    for name in (*_position_names(entries), "similarity", "pixels", "kB"):
        table.add_column(name, justify="left" if name == "verdict" else "right")
    table.add_column("image", overflow="fold")
    for entry in entries:
        number, *verdict = map(str, entry.position)
        if entry.starts_group:
            table.add_section()
        elif verdict:
            number = ""
        file = entry.file
        values = f"{file.similarity:.4f}", f"{file.width} x {file.height}", f"{file.bytes / 1000:,.0f}"
        # As Text, since names may hold what rich takes for markup.
        image = Text(printable(str(file_of(file.path))))
        table.add_row(number, *verdict, *values, image, style="green" if entry.starts_group else "")
    console.print(table)


def write_csv(path: Path, entries: list[Entry]) -> None:
    """Write a row for each file. Raises CliplineError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_position_names(entries), "similarity", "width", "height", "bytes", "path"])
    writer.writerows([*entry.position, *_figures(entry.file), entry.file.path] for entry in entries)
    with output(path) as file:
        file.write(text.getvalue().encode())


def draw(groups: list[Group], file_of: FileOf, path: Path) -> int:
    """Draw the first GROUPS groups, a row for each, the file to keep framed. Returns how many groups are left out."""
    rows = []
    for number, group in enumerate(groups[:GROUPS], 1):
        cells = [_cell(group.keep, file_of, f"{KEEP}: {_size(group.keep)}", GREEN)]
        cells += [
            _cell(file, file_of, f"{_verdict(file)} {file.similarity:.3f}: {_size(file)}")
            for file in group.others[: FILES - 1]
        ]
        more = len(group.others) + 1 - len(cells)
        title = f"group {number}: {len(group.others) + 1} images" + (f", {more} of them not shown" if more else "")
        rows.append(gallery.Row(title, cells))
    gallery.draw(rows, path)
    return max(0, len(groups) - GROUPS)


def draw_outliers(files: list[File], file_of: FileOf, path: Path, neighbours: int) -> None:
    """Draw a grid, the lowest similarity first."""
    cells = [_cell(file, file_of, f"{rank}.  {file.similarity:.3f}") for rank, file in enumerate(files, 1)]
    title = f"least like the others (mean similarity to the {neighbours} nearest)"
    gallery.draw([gallery.Row(title, cells)], path, columns=gallery.grid(len(cells)))


def _cell(file: File, file_of: FileOf, caption: str, frame: str | None = None) -> gallery.Cell:
    image = file_of(file.path)
    if not Path(image).is_file():
        raise CliplineError(f"{image}: {why_gone(image)}")
    return gallery.Cell(Path(image), f"{caption} {Path(file.path).name}", frame)


def _position_names(entries: list[Entry]) -> tuple[str, ...]:
    return ("rank",) if entries and len(entries[0].position) == 1 else ("group", "verdict")


def _verdict(file: File) -> str:
    return SAME if file.same else ALIKE


def _size(file: File) -> str:
    return f"{file.width} x {file.height}, {file.bytes / 1000:,.0f} kB"


def _figures(file: File) -> tuple[str, int, int, int]:
    return f"{file.similarity:.4f}", file.width, file.height, file.bytes


def _object(file: File, file_of: FileOf) -> dict[str, Any]:
    return {
        "path": file.path,
        "file": str(file_of(file.path)),
        "similarity": round(file.similarity, 6),
        "width": file.width,
        "height": file.height,
        "bytes": file.bytes,
        "same_bytes": file.same,
    }
