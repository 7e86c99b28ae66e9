"""The test split in three pictures: recall by rank, similarities, and words that are confused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from clipline.pictures.plots import BLUE, ORANGE, figure, save
from clipline.report.ranking import RecallByRank, Similarities
from clipline.report.word_confusion import OTHER, Confusion

BINS = 80
GREY = "#8a8f98"


def recall(found: RecallByRank, path: Path) -> None:
    """Percent of queries answered within rank k in both directions, and what chance would give."""
    last = len(found.ranks)
    # Rounded down: 99.97% must not read as 100%.
    title = (
        f"{np.floor(found.t2i[min(10, last) - 1]):.0f}% of captions find their image among the first {min(10, last)}"
    )
    drawing, (panel,) = figure(1, title)
    panel.plot(found.ranks, found.i2t, color=BLUE, linewidth=2, label="image to text")
    panel.plot(found.ranks, found.t2i, "--", color=ORANGE, linewidth=2, label="text to image")
    panel.plot(found.ranks, found.chance, ":", color=GREY, linewidth=1.6, label="text to image, by chance")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xticks([k for k in (1, 2, 5, 10, 20, 50, 100) if k <= last])
    panel.set(xlabel="rank k", ylabel="answered within rank k", ylim=(0, 102), xlim=(1, max(last, 2)))
    panel.yaxis.set_major_formatter(PercentFormatter())
    drawing.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    save(drawing, path)


def similarity(found: Similarities, path: Path) -> None:
    """How alike true pairs and other pairs are: two distributions over the cosine."""
    share = f"{np.floor(1000 * found.separation) / 10:.1f}%"
    title = f"A true pair is more alike than another pair {share} of the time"
    drawing, (panel,) = figure(1, title)
    everything = np.concatenate([found.pairs, found.others])
    edges = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-6), BINS + 1)
    groups = (
        ("a caption and its own image", found.pairs, BLUE, "-"),
        ("a caption and another image", found.others, ORANGE, "--"),
    )
    for name, values, colour, style in groups:
        if len(values):
            height = np.histogram(values, edges)[0] / len(values)
            label = f"{name}: median {np.median(values):.2f}"
            panel.stairs(height, edges, color=colour, fill=True, alpha=0.25)
            panel.stairs(height, edges, color=colour, linestyle=style, linewidth=1.8, label=label)
    panel.set(xlabel="similarity (cosine)", ylabel="share of pairs", ylim=(0, None))
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    drawing.legend(loc="outside lower center", ncols=1, frameon=False, fontsize="small")
    save(drawing, path)


def words(found: Confusion, path: Path) -> None:
    """Words asked for against the words that the first image shows instead, in percent of the queries with them."""
    count = len(found.words)
    worst = found.worst()
    if worst is None:
        title = "No word was confused with another"
    else:
        title = f"Asked for “{worst[0]}”, the first image shows “{worst[1]}” instead {worst[2]:.0f}% of the time"
    drawing, (panel,) = figure(1, title, height=2 + 0.36 * max(count, 4))
    drawing.set_figwidth(3.2 + 0.45 * max(count, 10))
    panel.grid(visible=False)
    if not count:
        panel.set_axis_off()
        panel.text(0.5, 0.5, "(captions that share words would be compared here)", ha="center", va="center")
        save(drawing, path)
        return
    _matrix(drawing, panel, found)
    panel.set_xticks(range(count + 1), [*found.words, OTHER], rotation=60, ha="right", rotation_mode="anchor")
    asked = zip(found.words, found.counts.sum(axis=1), strict=True)
    panel.set_yticks(range(count), [f"{word} ({queries:,})" for word, queries in asked])
    panel.set(xlabel="what the image found first shows", ylabel="word of the query (queries with it)")
    panel.spines[:].set_visible(False)
    save(drawing, path)


def _matrix(drawing: Figure, panel: Axes, found: Confusion) -> None:
    """Shades for what is wrong alone: beside what is right, and what is like no word here, they would all be pale."""
    count, shares = len(found.words), found.shares
    plain = np.eye(count, count + 1, dtype=bool)
    plain[:, count] = True
    limit = max(float(np.where(plain, 0, shares).max()), 1e-6)
    mesh = panel.imshow(np.where(plain, np.nan, shares), cmap="Blues", vmin=0, vmax=limit, aspect="auto")
    panel.imshow(np.where(plain, 1.0, np.nan), cmap="Greys", vmin=0, vmax=6, aspect="auto")
    for row, column in np.argwhere(shares >= 0.5):
        dark = not plain[row, column] and shares[row, column] > 0.6 * limit
        colour = "white" if dark else "black"
        panel.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    drawing.colorbar(mesh, ax=panel, label="percent of the queries, where wrong", shrink=0.7)
