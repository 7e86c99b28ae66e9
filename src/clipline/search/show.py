"""Print and draw search results: a table for terminals, lines for pipes, JSON for programs, a picture or a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipline.errors import CliplineError, UsageError, escape, printable
from clipline.search.searcher import Answer, why_gone

if TYPE_CHECKING:
    from rich.console import Console

PAGE_SUFFIXES = (".html", ".htm")


def print_table(answers: list[Answer], console: Console) -> None:
    """A ranked table per query."""
    from rich.table import Table
    from rich.text import Text

    for answer in answers:
        # As Text, since queries and names may hold what rich takes for markup.
        table = Table(title=Text(printable(answer.title), "bold"), title_justify="left")
        table.add_column("rank", justify="right")
        table.add_column("score", justify="right")
        table.add_column("image", overflow="fold")
        for rank, result in enumerate(answer.results, 1):
            table.add_row(str(rank), f"{result.score:.4f}", Text(printable(str(result.file))))
        console.print(table)


def lines(answers: list[Answer]) -> Iterator[str]:
    """`rank <tab> score <tab> path <tab> query`, one line per image."""
    for answer in answers:
        for rank, result in enumerate(answer.results, 1):
            yield f"{rank}\t{result.score:.4f}\t{escape(result.file)}\t{escape(answer.query)}"


def files(answers: list[Answer]) -> Iterator[Path | str]:
    """The files found, in the order of `lines`."""
    return (result.file for answer in answers for result in answer.results)


def as_objects(answers: list[Answer]) -> list[dict[str, Any]]:
    """For JSON, an object for each query. path: as the embeddings name the image; file: to open from here."""
    return [
        {
            "query": answer.query,
            "by": "image" if answer.image else "words",
            "not": list(answer.without),
            "results": [
                {"rank": rank, "score": round(result.score, 6), "path": result.path, "file": str(result.file)}
                for rank, result in enumerate(answer.results, 1)
            ],
        }
        for answer in answers
    ]


def check_path(path: Path) -> None:
    """Raise UsageError unless `path` names a kind of picture, or a page, that `draw` writes."""
    from clipline.pictures import gallery

    if path.suffix.lower() not in (*gallery.SUFFIXES, *PAGE_SUFFIXES):
        raise UsageError(f"{path}: the name ends in one of {', '.join((*gallery.SUFFIXES, PAGE_SUFFIXES[0]))}")


def draw(answers: list[Answer], path: Path) -> None:
    """Draw the images found, with their scores, as a picture or a page. Raises CliplineError where files are gone."""
    missing = [result.file for answer in answers for result in answer.results if not Path(result.file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CliplineError(f"{missing[0]}{more}: {why_gone(missing[0])}")
    if path.suffix.lower() in PAGE_SUFFIXES:
        from clipline.search import html_gallery

        html_gallery.write(answers, path)
        return
    from clipline.pictures.gallery import INK, Cell, Row, draw, grid

    rows = []
    for answer in answers:
        cells = [Cell(answer.image, "searched for", INK)] if answer.image else []
        for rank, result in enumerate(answer.results, 1):
            cells.append(Cell(Path(result.file), f"{rank}.  {result.score:.3f}"))
        rows.append(Row(printable(answer.title), cells))
    draw(rows, path, columns=grid(max(len(row.cells) for row in rows)))
