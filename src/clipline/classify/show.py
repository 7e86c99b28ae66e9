"""Show labels: a table for people, lines for pipes, JSON for programs, a CSV to keep."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipline.classify.evaluate import TOP, Evaluation
from clipline.classify.predict import Prediction
from clipline.embed.item import Failure
from clipline.embeddings.paths import printable
from clipline.errors import CliplineError
from clipline.utils.files import atomic

SHOWN = 40  # images in a table: more are no reading
LEAST = 0.01  # of a second label in it


def line(found: Prediction) -> str:
    """`file <tab> label <tab> probability <tab> second label <tab> ...`."""
    return "\t".join([str(found.file), *(each for pair in _ranked(found) for each in pair)])


def _ranked(found: Prediction) -> list[tuple[str, str]]:
    return [(label, f"{probability:.4f}") for label, probability in found.labels]


def as_object(found: Prediction | Failure) -> dict:
    """An image as JSON has it: its labels, or why it has none."""
    if isinstance(found, Failure):
        return {"path": found.path, "stage": found.stage, "error": found.reason}
    labels = [{"label": label, "probability": round(probability, 6)} for label, probability in found.labels]
    return {"path": found.path, "file": str(found.file), "labels": labels}


def to_json(found: list[dict] | dict) -> str:
    """Readable, and the same in every locale."""
    return json.dumps(found, indent=2)


class Overview:
    """For people: the first images with their labels, and how many images each label has."""

    def __init__(self) -> None:
        self._first: list[Prediction] = []
        self._counts: Counter[str] = Counter()

    def add(self, found: Prediction) -> None:
        """One more image."""
        self._counts[found.labels[0][0]] += 1
        if len(self._first) < SHOWN:
            self._first.append(found)

    def print(self, console: Console) -> None:
        """Both tables; the second only where there are several images."""
        table = Table()
        table.add_column("image", overflow="fold")
        table.add_column("label", style="bold")
        table.add_column("probability", justify="right")
        table.add_column("then")
        for found in self._first:
            name = printable(str(found.file))  # not rich's markup
            first, *others = found.labels
            then = ", ".join(f"{label} {probability:.0%}" for label, probability in others if probability >= LEAST)
            table.add_row(Text(name), Text(first[0]), f"{first[1]:.1%}", Text(then))
        console.print(table)
        total = self._counts.total()
        if total > len(self._first):
            console.print(f"and {total - len(self._first):,} more: --csv FILE keeps them all")
        if total > 1:
            self._print_counts(console, total)

    def _print_counts(self, console: Console, total: int) -> None:
        table = Table()
        for name in ("images", "share"):
            table.add_column(name, justify="right")
        table.add_column("label")
        for label, count in self._counts.most_common():
            table.add_row(f"{count:,}", f"{count / total:.1%}", Text(label))
        console.print(table)


class Csv:
    """A CSV with a row per image, there whole or not at all. Use as a context manager.

    Columns: path, label, probability, label_2, probability_2, ..., error; with `truth` also `class`, behind path.
    Raises CliplineError where it cannot be written.
    """

    def __init__(self, path: Path, top: int, *, truth: bool = False) -> None:
        self.path, self._top, self._truth = path, top, truth
        self._stack = ExitStack()

    def __enter__(self) -> Csv:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(atomic(self.path))
        except OSError as error:
            raise self._refused(error) from error
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        more = [f"{name}_{rank}" for rank in range(2, self._top + 1) for name in ("label", "probability")]
        self._write(["path", *["class"] * self._truth, "label", "probability", *more, "error"])
        return self

    def add(self, found: Prediction | Failure, truth: str = "") -> None:
        """One more image. truth: its real class."""
        head = [found.path, *[truth] * self._truth]
        if isinstance(found, Failure):
            self._write([*head, *[""] * (2 * self._top), f"{found.stage}: {found.reason}"])
            return
        values = [each for pair in _ranked(found)[: self._top] for each in pair]
        self._write([*head, *values, *[""] * (2 * self._top - len(values)), ""])

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._text.detach()
            self._stack.__exit__(kind, error, trace)
        except OSError as refused:
            raise self._refused(refused) from refused

    def _write(self, row: list[str]) -> None:
        try:
            self._writer.writerow(row)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> CliplineError:
        return CliplineError(f"{self.path}: cannot be written: {error.strerror or error}")


def summary(found: Evaluation) -> str:
    """The figures of all images in one line."""
    top5 = f", top-5 {found.top5:.1f}%" if len(found.labels) > TOP else ""
    return (
        f"{found.images:,} images: top-1 {found.top1:.1f}%{top5}, mean of the classes {found.balanced:.1f}% "
        f"(by chance {found.chance:.1f}%)"
    )


def class_lines(found: Evaluation) -> Iterator[str]:
    """`class <tab> images <tab> top-1 <tab> top-5 <tab> confused with <tab> how often`, percentages, for pipes."""
    for row in found.rows():
        figures = f"{row['images']}\t{row['top1']:.2f}\t{row['top5']:.2f}"
        yield f"{row['class']}\t{figures}\t{row['confused_with'] or ''}\t{row['confused']:.2f}"


def print_classes(found: Evaluation, console: Console) -> None:
    """A row for each class."""
    table = Table()
    table.add_column("class", overflow="fold")
    for name in ("images", "top-1", "top-5"):
        table.add_column(name, justify="right")
    table.add_column("most often taken for")
    for row in found.rows():
        wrong = f"{row['confused_with']} {row['confused']:.1f}%" if row["confused_with"] else ""
        table.add_row(Text(row["class"]), f"{row['images']:,}", f"{row['top1']:.1f}%", f"{row['top5']:.1f}%", wrong)
    console.print(table)
