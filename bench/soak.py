"""A long run: many images are embedded, while simulated users search the folder in the web app.

    python bench/soak.py --model models/onnx [--images 200000] [--minutes 30] [--users 8] [--out soak.json]

A tenth of the images is embedded first. Then `clipline app` serves the folder to users who search, turn pages, drop
images and ask for labels without a pause (see bench/app.py), while `clipline embed` adds the rest. Printed: errors, and
memory, descriptors and threads of both processes over time, with their growth in the last quarter.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import app
import numpy as np
import typer
from command import launch
from machine_facts import machine_facts
from PIL import Image
from rich.console import Console
from rich.table import Table

from clipline.errors import CliplineError
from clipline.utils.progress import Bar

EMBED = [sys.executable, "-c", "from clipline.cli import main; main()", "embed"]
FOLDER = 1000  # images in one
VITALS = ("rss_mb", "descriptors", "threads")
console = Console()


def main(
    *,
    model: Annotated[Path, typer.Option(help="The exported model.")] = Path("models/onnx"),
    images: Annotated[int, typer.Option(min=1000)] = 200_000,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long users search.")] = 30,
    users: Annotated[int, typer.Option(min=1, help="At once.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Also write all figures to this JSON file.")] = None,
) -> None:
    """Embed and search for a long time; show whether memory, descriptors and threads stay constant."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        photos, index = Path(folder, "photos"), Path(folder, "embeddings")
        command = [*EMBED, str(photos), "--model", str(model), "--out", str(index)]
        first = images // 10
        generate(photos, 0, first)
        _watched(command)
        with app.served(str(index), "--model", str(model)) as (url, server):
            figures: dict[str, Any] = {}
            searching = threading.Thread(
                target=lambda: figures.update(app.load(url, server.pid, users, 60 * minutes)), daemon=True
            )
            searching.start()
            generate(photos, first, images)
            embedding = _watched(command)
            searching.join()
    results = {
        "machine": machine_facts(), "images": images, "users": users, "minutes": minutes, "errors": figures["errors"],
        "rounds": figures["rounds"], "seen": {kind: len(values) for kind, values in figures["seen"].items()},
        "embed": embedding, "app": figures["samples"],
    }  # fmt: skip
    _show(results)
    if out:
        out.write_text(json.dumps(results, indent=2) + "\n")


def generate(folder: Path, start: int, end: int) -> None:
    """Write JPEG files of 96 x 72 pixels, each of different smooth noise."""
    with Bar("making images", end - start, "images") as bar:
        for first in range(start, end, FOLDER):
            subfolder, rng = folder / f"{first // FOLDER:05d}", np.random.default_rng(first)
            subfolder.mkdir(parents=True, exist_ok=True)
            for number in range(first, min(first + FOLDER, end)):
                small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
                data = io.BytesIO()
                small.resize((96, 72), Image.Resampling.BICUBIC).save(data, "JPEG")
                (subfolder / f"{number:07d}.jpg").write_bytes(data.getvalue())
                bar.advance()


def _watched(command: list[str]) -> list[dict[str, float]]:
    """Run a command; its vitals once a second. Raises CliplineError where it fails."""
    start, samples = time.monotonic(), []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            samples.append(app.vitals(process.pid) | {"second": round(time.monotonic() - start, 1)})
        except (OSError, TypeError):  # it ended this very moment
            break
        time.sleep(1)
    if process.wait():
        raise CliplineError(f"{' '.join(command)}: ended with {process.returncode}")
    return samples


def growth(samples: list[dict[str, float]], name: str) -> float:
    """Median of the last quarter of the samples minus that of the third quarter."""
    third, last = (samples[len(samples) * quarter // 4 : len(samples) * (quarter + 1) // 4] for quarter in (2, 3))
    return median(sample[name] for sample in last) - median(sample[name] for sample in third)


def _show(results: dict[str, Any]) -> None:
    console.print(
        f"{results['images']:,} images; {results['users']} users for {results['minutes']:g} minutes: "
        f"{results['rounds']:,} rounds, {sum(results['errors'].values())} errors {results['errors'] or ''}",
        highlight=False,
    )
    table = Table("", "", *(f"{percent}%" for percent in (5, 25, 50, 75, 100)), "third to last quarter")
    for process in ("embed", "app"):
        samples = results[process]
        for name in VITALS:
            at = (samples[min(len(samples) - 1, len(samples) * percent // 100)] for percent in (5, 25, 50, 75, 100))
            table.add_row(process, name, *(f"{sample[name]:,.0f}" for sample in at), f"{growth(samples, name):+,.0f}")
    console.print(table)


if __name__ == "__main__":
    launch(main)
