"""Plots with matplotlib: the distribution of caption lengths, and the curves of a training."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from clipline.errors import CliplineError
from clipline.utils.files import atomic

# Okabe and Ito's palette, which colour-blind readers tell apart.
_COLOURS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}
BLUE, ORANGE = "#0072B2", "#D55E00"
_STYLES = ("-", "--", ":")


def caption_lengths(lengths_by_split: Mapping[str, np.ndarray], max_length: int, path: Path) -> None:
    """Plot the share of captions by token count, one line per split, and a line at `max_length`.

    lengths_by_split: split -> integers [captions], special tokens included, before truncation.
    """
    drawing, axes = figure(1, "Caption lengths")
    (panel,) = axes
    longest = max((int(lengths.max()) for lengths in lengths_by_split.values() if lengths.size), default=0)
    edges = np.arange(longest + 2) - 0.5
    for split, lengths in lengths_by_split.items():
        share = np.histogram(lengths, edges)[0] / max(lengths.size, 1)
        cut = float(np.mean(lengths > max_length)) if lengths.size else 0.0
        label = f"{split}: {lengths.size:,} captions, {cut:.1%} truncated"
        panel.stairs(share, edges, label=label, color=_COLOURS.get(split), linewidth=1.6)
    # A line far beyond the longest caption would squeeze the curves into a corner: then only the legend names it.
    label = f"max_length {max_length}"
    if max_length <= 2 * longest:
        panel.axvline(max_length + 0.5, color="black", linestyle="--", linewidth=1.2, label=label)
    else:
        panel.plot([], [], " ", label=f"{label} (beyond the axis)")
    panel.set(xlabel="tokens", ylabel="share of the split's captions", xlim=(0, None), ylim=(0, None))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    drawing.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save(drawing, path)


def curves(train_csv: Path, path: Path) -> None:
    """Plot the losses and the validation's R@k by epoch, as far as train.csv has these columns.

    Raises CliplineError where train.csv is missing or has no epoch or no loss.
    """
    table = _columns(train_csv)
    losses = [name for name in ("train_loss", "val_loss") if name in table]
    recalls = [name for name in table if name.startswith(("val_i2t_r", "val_t2i_r"))]
    if "epoch" not in table or not losses:
        raise CliplineError(f"{train_csv}: no epoch or no loss to draw; columns: {', '.join(table) or 'none'}")
    drawing, axes = figure(2 if recalls else 1, "Training")
    for name, colour in zip(losses, (BLUE, ORANGE), strict=False):
        label = name.removesuffix("_loss")
        _line(axes[0], table, name, label=label, colour=colour, style="-")
    axes[0].set(title="loss", xlabel="epoch")
    if recalls:
        _recalls(axes[1], table, recalls)
    for panel in axes:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Below the axes: curves that rise from 0 leave no corner free.
        panel.legend(frameon=False, fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    save(drawing, path)


def _recalls(panel: Axes, table: Mapping[str, np.ndarray], names: list[str]) -> None:
    ks = sorted({int(name.rsplit("_r", 1)[1]) for name in names})
    directions = (("i2t", "image to text", BLUE), ("t2i", "text to image", ORANGE))
    for direction, title, colour in directions:
        for number, k in enumerate(ks):
            name = f"val_{direction}_r{k}"
            if name in table:
                style = _STYLES[number % len(_STYLES)]
                _line(panel, table, name, label=f"{title} R@{k}", colour=colour, style=style)
    panel.set(title="validation recall", xlabel="epoch", ylabel="percent", ylim=(0, None))


def _line(panel: Axes, table: Mapping[str, np.ndarray], name: str, *, label: str, colour: str, style: str) -> None:
    known = np.isfinite(table[name]) & np.isfinite(table["epoch"])
    x, y = table["epoch"][known], table[name][known]
    # With few epochs the points are marked: a line of a single point would be invisible.
    marker = "o" if x.size <= 30 else None
    panel.plot(x, y, style, color=colour, label=label, marker=marker, markersize=3.5, linewidth=1.6)


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The columns that contain numbers: name -> float64 [rows]; an empty cell is NaN."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            names, rows = reader.fieldnames or [], list(reader)
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: run the train stage (dvc repro train)") from None
    table = {}
    for name in names:
        cells = [(f"{path}: line {line}: {name}", row[name]) for line, row in enumerate(rows, start=2)]
        values = np.array([_number(cell, where) for where, cell in cells], dtype=np.float64)
        if np.isfinite(values).any():
            table[name] = values
    return table


def _number(cell: str | None, where: str) -> float:
    try:
        return float(cell) if cell else np.nan
    except ValueError:
        raise CliplineError(f"{where}: {cell!r} is no number") from None


def figure(panels: int, title: str, *, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """Create `panels` axes side by side below a title. height: in inches."""
    # Not pyplot: it has global state and looks for a display.
    drawing = Figure(figsize=(6.4 * panels, height), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    drawing.suptitle(title)
    axes = [drawing.add_subplot(1, panels, number + 1) for number in range(panels)]
    for panel in axes:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def save(drawing: Figure, path: Path) -> None:
    """Write the figure as PNG, atomically."""
    # Without matplotlib's version in the file, the same data gives the same bytes everywhere.
    with atomic(path) as file:
        drawing.savefig(file, format="png", metadata={"Software": None})
