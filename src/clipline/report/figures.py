"""Plots of the test split: recall by rank, similarities, and confused words."""

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


def recall(curves: RecallByRank, path: Path) -> None:
    """Plot the percentage of queries answered within rank k, in both directions and by chance."""
    last = len(curves.ranks)
    top = min(10, last)
    # Rounded down: 99.97% must not read as 100%.
    title = f"{np.floor(curves.t2i[top - 1]):.0f}% of captions find their image among the first {top}"
    fig, (ax,) = figure(1, title)
    ax.plot(curves.ranks, curves.i2t, color=BLUE, linewidth=2, label="image to text")
    ax.plot(curves.ranks, curves.t2i, "--", color=ORANGE, linewidth=2, label="text to image")
    ax.plot(curves.ranks, curves.chance, ":", color=GREY, linewidth=1.6, label="text to image, by chance")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xticks([k for k in (1, 2, 5, 10, 20, 50, 100) if k <= last])
    ax.set(xlabel="rank k", ylabel="answered within rank k", ylim=(0, 102), xlim=(1, max(last, 2)))
    ax.yaxis.set_major_formatter(PercentFormatter())
    fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    save(fig, path)


def similarity(cosines: Similarities, path: Path) -> None:
    """Plot the distributions of the cosines of true pairs and of other pairs."""
    share = f"{np.floor(1000 * cosines.separation) / 10:.1f}%"
    title = f"A true pair is more alike than another pair {share} of the time"
    fig, (ax,) = figure(1, title)
    everything = np.concatenate([cosines.pairs, cosines.others])
    edges = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-6), BINS + 1)
    groups = (
        ("a caption and its own image", cosines.pairs, BLUE, "-"),
        ("a caption and another image", cosines.others, ORANGE, "--"),
    )
    for name, values, colour, style in groups:
        if len(values):
            height = np.histogram(values, edges)[0] / len(values)
            label = f"{name}: median {np.median(values):.2f}"
            ax.stairs(height, edges, color=colour, fill=True, alpha=0.25)
            ax.stairs(height, edges, color=colour, linestyle=style, linewidth=1.8, label=label)
    ax.set(xlabel="similarity (cosine)", ylabel="share of pairs", ylim=(0, None))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    fig.legend(loc="outside lower center", ncols=1, frameon=False, fontsize="small")
    save(fig, path)


def words(confusion: Confusion, path: Path) -> None:
    """Plot the words of queries against the words that the first image shows instead, in percent of the queries."""
    count = len(confusion.words)
    worst = confusion.worst()
    if worst is None:
        title = "No word was confused with another"
    else:
        title = f"Asked for “{worst[0]}”, the first image shows “{worst[1]}” instead {worst[2]:.0f}% of the time"
    fig, (ax,) = figure(1, title, height=2 + 0.36 * max(count, 4))
    fig.set_figwidth(3.2 + 0.45 * max(count, 10))
    ax.grid(visible=False)
    if not count:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "(captions that share words would be compared here)", ha="center", va="center")
        save(fig, path)
        return
    _matrix(fig, ax, confusion)
    ax.set_xticks(range(count + 1), [*confusion.words, OTHER], rotation=60, ha="right", rotation_mode="anchor")
    queries = zip(confusion.words, confusion.counts.sum(axis=1), strict=True)
    ax.set_yticks(range(count), [f"{word} ({number:,})" for word, number in queries])
    ax.set(xlabel="what the image found first shows", ylabel="word of the query (queries with it)")
    ax.spines[:].set_visible(False)
    save(fig, path)


def _matrix(fig: Figure, ax: Axes, confusion: Confusion) -> None:
    """Shade only the wrong words: the diagonal and the column of other words would make all their shades pale."""
    count, shares = len(confusion.words), confusion.shares
    plain = np.eye(count, count + 1, dtype=bool)
    plain[:, count] = True
    limit = max(float(np.where(plain, 0, shares).max()), 1e-6)
    mesh = ax.imshow(np.where(plain, np.nan, shares), cmap="Blues", vmin=0, vmax=limit, aspect="auto")
    ax.imshow(np.where(plain, 1.0, np.nan), cmap="Greys", vmin=0, vmax=6, aspect="auto")
    for row, column in np.argwhere(shares >= 0.5):
        dark = not plain[row, column] and shares[row, column] > 0.6 * limit
        colour = "white" if dark else "black"
        ax.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    fig.colorbar(mesh, ax=ax, label="percent of the queries, where wrong", shrink=0.7)
