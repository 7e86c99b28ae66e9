"""The results of bench/embed.py as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

# The project's goals, for ViT-B/32 on 2 cores.
AIMS = {
    "fp32 / limit": 0.92,
    "fp32 / open_clip fp32": 1.15,
    "int8 / ceiling": 0.90,
    "int8 / fp32": 2.4,
    "int8 / open_clip bf16": 1.0,
}


def show(console: Console, results: dict[str, Any]) -> None:
    """Print the machine, rates, and ratios beside the project's goals."""
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    asked = (
        f"{settings['model']}: {settings['images']:,} images, batches of {settings['batch_size']}, "
        f"{settings['threads']} threads, {settings['repeats']} rounds"
    )
    for line in ("", f"{machine['date']}  {machine['cpu']}", machine["system"], versions, asked):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table("images/s", "median", "lowest", "highest")
    for name, figures in results["rates"].items():
        table.add_row(
            name, *(f"{value:,.1f}" for value in (figures["median"], min(figures["runs"]), max(figures["runs"])))
        )
    console.print(table)
    table = Table("ratio", "median", "lowest", "highest", "aim")
    for name, figures in results["ratios"].items():
        values = (figures["median"], min(figures["runs"]), max(figures["runs"]))
        table.add_row(name, *(f"{value:.2f}" for value in values), f"{AIMS[name]:.2f}" if name in AIMS else "")
    console.print(table)
    if "rss" in results:
        console.print(f"peak memory of ten times as many images: {results['rss']['ratio']:.3f} times (aim: 1.10)")
