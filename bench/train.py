"""Speed of a training step, against open_clip's own model and loss with the same towers, measured in one run.

    python bench/train.py
    python bench/train.py --device cuda --batch-size 1024 --steps 50 --precision bf16 --compile yes
    python bench/train.py --model resnet50_distilbert --device cuda --batch-size 512 --steps 50 --precision bf16
    python bench/train.py --peers none

ViT-B/32 with CLIP's text transformer, or ResNet50 with DistilBERT; random weights, and the same batch, resolution,
precision and token length. Pixels and tokens are in memory, as they are after both trainers' loaders. In `frozen` the
image tower is locked: clipline takes its features from the cache, as `dvc repro` does from the second epoch on.
Rounds of all contestants alternate.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import trainers
import typer
from command import launch
from contenders import apart, open_clip_missing
from machine_facts import machine_facts
from rich.console import Console
from rich.table import Table

from clipline.errors import UsageError
from clipline.utils import cores

AIMS = {"frozen": 1.5, "trainable": 1.0}
console = Console()


def main(
    device: Literal["cpu", "cuda"] = "cpu",
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    tokens: Annotated[int, typer.Option(min=4, max=77, help="Tokens of each caption.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps in a round.")] = 4,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of the towers.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, show_default="all cores")] = None,
    peers: Annotated[Literal["open_clip", "none"], typer.Option()] = "open_clip",
    model: Annotated[
        Literal["vit_b_32", "resnet50_distilbert", "tiny"],
        typer.Option(help="tiny checks in seconds that the benchmark runs."),
    ] = "vit_b_32",
    compile_model: Annotated[
        Literal["no", "yes", "cuda_graphs"], typer.Option("--compile", help="torch.compile both models.")
    ] = "no",
    out: Annotated[Path | None, typer.Option(help="Write JSON to this file too.")] = None,
) -> None:
    """Measure, print a table, write JSON."""
    if peers == "open_clip" and (missing := open_clip_missing()):
        raise UsageError(f"{missing}; or --peers none")
    compile_setting = {"no": False, "yes": True}.get(compile_model, compile_model)
    threads = threads or cores.available()
    job = trainers.Job(model, device, batch_size, tokens, steps, precision, threads, compile_setting, frozen=False)
    contests = {f"clipline {name}": (trainers.ours, replace(job, frozen=name == "frozen")) for name in AIMS}
    if peers == "open_clip":
        contests |= {f"open_clip {name}": (trainers.open_clip, replace(job, frozen=name == "frozen")) for name in AIMS}
    rounds: list[dict[str, dict]] = []
    for number in range(repeats):
        rounds.append({})
        for name, (function, contest) in contests.items():
            rounds[-1][name] = apart(function, contest)
            console.print(f"round {number + 1} of {repeats}: {name}: {rounds[-1][name]['rate']:,.1f} samples/s")
    results = {"machine": machine_facts(), "settings": job.settings(), **_summary(rounds), "details": rounds}
    _show(results)
    if out:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _summary(rounds: list[dict[str, dict]]) -> dict[str, Any]:
    rates = {name: [figures[name]["rate"] for figures in rounds] for name in rounds[0]}
    ratios = {
        name: [
            ours / theirs for ours, theirs in zip(rates[f"clipline {name}"], rates[f"open_clip {name}"], strict=True)
        ]
        for name in AIMS
        if f"open_clip {name}" in rates
    }
    arithmetic = {
        name: {
            key: median(figures[f"clipline {name}"][key] for figures in rounds)
            for key in ("tflops", "mfu")
            if key in rounds[0][f"clipline {name}"]
        }
        for name in AIMS
    }
    outside = {name: [figures[f"clipline {name}"]["outside"] for figures in rounds] for name in AIMS}
    return {"rates": rates, "ratios": ratios, "outside": outside, "arithmetic": arithmetic}


def _show(results: dict[str, Any]) -> None:
    machine = results["machine"]
    for line in (machine["date"], machine["cpu"], machine["system"], str(results["settings"])):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table("samples/s", "median", "lowest", "highest")
    for name, runs in results["rates"].items():
        table.add_row(name, *(f"{value:,.1f}" for value in (median(runs), min(runs), max(runs))))
    console.print(table)
    for name, runs in results["ratios"].items():
        console.print(f"{name}: {median(runs):.2f} times open_clip (aim {AIMS[name]:.2f})")
    for name, figures in results["arithmetic"].items():
        share = f", {figures['mfu']:.1%} of the GPU's peak (aim 40 %)" if "mfu" in figures else ""
        console.print(f"{name}: {figures['tflops']:.3g} TFLOP/s{share}")
    for name, runs in results["outside"].items():
        console.print(f"{name}: {median(runs):.1%} of the time outside forward, backward and optimiser (aim 5 %)")


if __name__ == "__main__":
    launch(main)
