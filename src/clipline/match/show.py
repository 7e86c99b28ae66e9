"""Show what captions fit, and how a quiz went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipline.embeddings.paths import printable
from clipline.match.captions import Captioned
from clipline.match.quiz import Quiz


class Ranked(NamedTuple):
    """A caption, with its place among others."""

    rank: int
    probability: float
    cosine: float
    caption: str


def rank(captions: Sequence[str], found: np.ndarray, cosines: np.ndarray) -> list[Ranked]:
    """The captions, likeliest first. found, cosines: float32 [captions]."""
    order = np.argsort(-found, kind="stable").tolist()
    return [
        Ranked(place, round(float(found[row]), 6), round(float(cosines[row]), 6), captions[row])
        for place, row in enumerate(order, 1)
    ]


def line(found: Ranked) -> str:
    """`rank <tab> probability <tab> cosine <tab> caption`."""
    return f"{found.rank}\t{found.probability:.4f}\t{found.cosine:.4f}\t{' '.join(found.caption.split())}"


def print_table(found: list[Ranked], console: Console, title: str) -> None:
    """For people."""
    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold")
    for name in ("rank", "probability", "cosine"):
        table.add_column(name, justify="right")
    table.add_column("caption", overflow="fold")
    for each in found:
        values = (str(each.rank), f"{each.probability:.1%}", f"{each.cosine:.3f}")
        table.add_row(*values, Text(each.caption))
    console.print(table)


def figures(quiz: Quiz) -> dict[str, Any]:
    """For JSON, percentages."""
    return {
        "accuracy": round(quiz.accuracy, 2),
        "standard_error": round(quiz.uncertainty, 2),
        "chance": round(quiz.chance, 2),
        "questions": len(quiz.answers),
        "images": len(np.unique(quiz.images)),
        "choices": quiz.choices.shape[1],
    }


def summary(quiz: Quiz, data: Captioned) -> str:
    """One line."""
    return (
        f"{data.where}: {quiz.accuracy:.1f}% (± {quiz.uncertainty:.1f}) of {len(quiz.answers):,} questions on "
        f"{len(np.unique(quiz.images)):,} images right; by chance {quiz.chance:.1f}%"
    )
