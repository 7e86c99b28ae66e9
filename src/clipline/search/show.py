"""Show what a search found: a table for people, lines for pipes, JSON for programs, a picture to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipline import gallery
from clipline.errors import CliplineError
from clipline.search.query import Answer


def print_table(answers: list[Answer], console: Console) -> None:
    """A ranked table per query."""
    for answer in answers:
        table = Table(title=answer.query, title_justify="left", title_style="bold")
        table.add_column("rank", justify="right")
        table.add_column("score", justify="right")
        table.add_column("image", overflow="fold")
        for rank, result in enumerate(answer.results, 1):
            # Names are not rich's markup, and may hold bytes that no terminal can show.
            name = str(result.file).encode(errors="replace").decode()
            table.add_row(str(rank), f"{result.score:.4f}", Text(name))
        console.print(table)


def lines(answers: list[Answer]) -> Iterator[str]:
    """`rank <tab> score <tab> path <tab> query`, one line per image."""
    for answer in answers:
        for rank, result in enumerate(answer.results, 1):
            yield f"{rank}\t{result.score:.4f}\t{result.file}\t{' '.join(answer.query.split())}"


def to_json(answers: list[Answer]) -> str:
    """A list with an object per query. path: as in the embeddings; file: to open from here."""
    return json.dumps(
        [
            {
                "query": answer.query,
                "results": [
                    {
                        "rank": rank,
                        "score": round(result.score, 6),
                        "path": result.path,
                        "file": str(result.file),
                    }
                    for rank, result in enumerate(answer.results, 1)
                ],
            }
            for answer in answers
        ],
        indent=2,
    )


def draw(answers: list[Answer], path: Path) -> None:
    """The grid of what was found, scores below. Raises CliplineError that names the images that are gone."""
    missing = [result.file for answer in answers for result in answer.results if not Path(result.file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CliplineError(
            f"{missing[0]}{more}: no such file, so there is no picture. Mend: name the folder of the images "
            "with --root, or embed it again if images were removed"
        )
    rows = [
        gallery.Row(
            answer.query,
            [
                gallery.Cell(Path(result.file), f"{rank}.  {result.score:.3f}")
                for rank, result in enumerate(answer.results, 1)
            ],
        )
        for answer in answers
    ]
    gallery.draw(rows, path, columns=gallery.grid(max(len(row.cells) for row in rows)))
