"""Print how well captions fit an image, and the accuracy of a quiz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipline.errors import escape, printable
from clipline.match.captions import Captioned
from clipline.match.quiz import Quiz


class Ranked(NamedTuple):
    """A caption with its rank among others."""

    rank: int
    probability: float
    cosine: float
    caption: str


def rank(captions: Sequence[str], probabilities: np.ndarray, cosines: np.ndarray) -> list[Ranked]:
    """The captions, likeliest first. probabilities, cosines: float32 [captions]."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    return [
        Ranked(rank, round(float(probabilities[row]), 6), round(float(cosines[row]), 6), captions[row])
        for rank, row in enumerate(order, 1)
    ]


def line(ranked: Ranked) -> str:
    """`rank <tab> probability <tab> cosine <tab> caption`."""
    return f"{ranked.rank}\t{ranked.probability:.4f}\t{ranked.cosine:.4f}\t{escape(ranked.caption)}"


def print_table(captions: list[Ranked], title: str, console: Console) -> None:
    """Print a table."""
    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold")
    for name in ("rank", "probability", "cosine"):
        table.add_column(name, justify="right")
    table.add_column("caption", overflow="fold")
    for caption in captions:
        values = (str(caption.rank), f"{caption.probability:.1%}", f"{caption.cosine:.3f}")
        table.add_row(*values, Text(printable(caption.caption)))
    console.print(table)


def figures(quiz: Quiz) -> dict[str, Any]:
    """The figures for JSON: percentages and counts."""
    return {
        "accuracy": round(quiz.accuracy, 2),
        "standard_error": round(quiz.uncertainty, 2),
        "chance": round(quiz.chance, 2),
        "questions": len(quiz.answers),
        "images": len(np.unique(quiz.images)),
        "choices": quiz.choices.shape[1],
    }


def summary(quiz: Quiz, data: Captioned) -> str:
    """The accuracy in one line."""
    return (
        f"{data.where}: {quiz.accuracy:.1f}% (± {quiz.uncertainty:.1f}) of {len(quiz.answers):,} questions on "
        f"{len(np.unique(quiz.images)):,} images right; by chance {quiz.chance:.1f}%"
    )
