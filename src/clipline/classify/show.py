"""Print labels: a table for terminals, lines for pipes, JSON for programs, a CSV to keep."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipline.classify.evaluate import TOP, Evaluation
from clipline.classify.predict import Prediction
from clipline.embed.item import Failure
from clipline.errors import CliplineError, escape, printable
from clipline.utils.files import atomic
from clipline.utils.remedies import why

SHOWN = 40  # images in a table: more do not fit a page
MIN_PROBABILITY = 0.01  # of a second label in it


def line(prediction: Prediction) -> str:
    """`file <tab> label <tab> probability <tab> second label <tab> ...`."""
    return "\t".join(map(escape, (prediction.file, *_fields(prediction))))


def _fields(prediction: Prediction) -> list[str]:
    """Label, probability, second label, its probability, ..."""
    return [text for label, probability in prediction.labels for text in (label, f"{probability:.4f}")]


def as_object(result: Prediction | Failure) -> dict:
    """An image for JSON: its labels, or why it has none."""
    if isinstance(result, Failure):
        return {"path": result.path, "stage": result.stage, "error": result.reason}
    labels = [{"label": label, "probability": round(probability, 6)} for label, probability in result.labels]
    return {"path": result.path, "file": str(result.file), "labels": labels}


class Overview:
    """For terminals: the first images with their labels, and how many images each label has."""

    def __init__(self) -> None:
        self._first: list[Prediction] = []
        self._counts: Counter[str] = Counter()

    def add(self, prediction: Prediction) -> None:
        """Count one more image."""
        self._counts[prediction.labels[0][0]] += 1
        if len(self._first) < SHOWN:
            self._first.append(prediction)

    def print(self, console: Console) -> None:
        """Print both tables; the second only where there are several images."""
        table = Table()
        table.add_column("image", overflow="fold")
        table.add_column("label", style="bold")
        table.add_column("probability", justify="right")
        table.add_column("then")
        for prediction in self._first:
            name = printable(str(prediction.file))
            first, *others = prediction.labels
            then = ", ".join(
                f"{label} {probability:.0%}" for label, probability in others if probability >= MIN_PROBABILITY
            )
            # As Text, since names and labels may hold what rich takes for markup.
            table.add_row(Text(name), Text(printable(first[0])), f"{first[1]:.1%}", Text(printable(then)))
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
            table.add_row(f"{count:,}", f"{count / total:.1%}", Text(printable(label)))
        console.print(table)


class Csv:
    """A CSV with a row for each image, written completely or not at all. Use as a context manager.

    Columns: path, label, probability, label_2, probability_2, ..., error; with `truth` also `class`, after path.
    Raises CliplineError where it cannot be written.
    """

    def __init__(self, path: Path, top: int, *, truth: bool = False) -> None:
        self.path, self._top, self._truth = path, top, truth
        self._stack = ExitStack()

    def __enter__(self) -> Csv:
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(atomic(self.path))
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        more = [f"{name}_{rank}" for rank in range(2, self._top + 1) for name in ("label", "probability")]
        self._write(["path", *["class"] * self._truth, "label", "probability", *more, "error"])
        return self

    def add(self, result: Prediction | Failure, truth: str = "") -> None:
        """Write the row of an image. truth: its real class."""
        failed = isinstance(result, Failure)
        values = [] if failed else _fields(result)[: 2 * self._top]
        values += [""] * (2 * self._top - len(values))
        error = f"{result.stage}: {result.reason}" if failed else ""
        self._write([result.path, *[truth] * self._truth, *values, error])

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._errors():
            self._text.detach()
            self._stack.__exit__(kind, error, trace)

    def _write(self, row: list[str]) -> None:
        with self._errors():
            self._writer.writerow(row)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CliplineError(f"{self.path}: cannot be written: {why(error)}") from error


def summary(evaluation: Evaluation) -> str:
    """The figures of all images in one line."""
    top5 = f", top-5 {evaluation.top5:.1f}%" if len(evaluation.labels) > TOP else ""
    return (
        f"{evaluation.images:,} images: top-1 {evaluation.top1:.1f}%{top5}, mean of the classes "
        f"{evaluation.balanced:.1f}% (by chance {evaluation.chance:.1f}%)"
    )


def class_lines(evaluation: Evaluation) -> Iterator[str]:
    """`class <tab> images <tab> top-1 <tab> top-5 <tab> confused with <tab> how often`, percentages, for pipes."""
    for row in evaluation.per_class():
        figures = f"{row['images']}\t{row['top1']:.2f}\t{row['top5']:.2f}"
        yield f"{escape(row['class'])}\t{figures}\t{escape(row['confused_with'] or '')}\t{row['confused']:.2f}"


def print_classes(evaluation: Evaluation, console: Console) -> None:
    """Print a table with a row for each class."""
    table = Table()
    table.add_column("class", overflow="fold")
    for name in ("images", "top-1", "top-5"):
        table.add_column(name, justify="right")
    table.add_column("most often taken for")
    for row in evaluation.per_class():
        wrong = f"{row['confused_with']} {row['confused']:.1f}%" if row["confused_with"] else ""
        names = Text(printable(row["class"])), Text(printable(wrong))
        table.add_row(names[0], f"{row['images']:,}", f"{row['top1']:.1f}%", f"{row['top5']:.1f}%", names[1])
    console.print(table)
