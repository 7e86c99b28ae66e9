"""How fast `clipline embed` is, compared with its limit and with other programs, all measured in one run.

    python bench/embed.py photos
    python bench/embed.py photos --model models/onnx --precisions fp32,int8 --peers none
    python bench/embed.py photos --rss --peers none

Everything is measured `--repeats` times in turns (A B C A B C), so that other load on the machine affects all; medians
are printed. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import contenders
import photos as photo_files
import typer
import vit
from command import launch
from contenders import Job, apart
from machine_facts import machine_facts
from rich.console import Console
from show import show

from clipline.errors import UsageError
from clipline.runtime.bundle import Bundle
from clipline.utils import cores

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("open_clip", "serial")
# Images on which a DataLoader's number of workers is tried.
TRIED = 192
console = Console()


def main(
    folder: Annotated[Path, typer.Argument(help="Photos (JPEG), repeated under other names to --images.")],
    images: Annotated[int, typer.Option(min=1)] = 2000,
    model: Annotated[Path | None, typer.Option(help="An exported model.", show_default="a random ViT-B/32")] = None,
    provider: Literal["cpu", "cuda", "auto"] = "cpu",
    precisions: Annotated[str, typer.Option(help="Those that the model lacks are left out.")] = "fp32,int8,fp16",
    peers: Annotated[str, typer.Option(help="open_clip, serial, or none.")] = ",".join(PEERS),
    threads: Annotated[int | None, typer.Option(min=1, show_default="all cores")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="To measure the limit, half before and half after.")] = 10.0,
    rss: Annotated[bool, typer.Option("--rss", help="Also peak memory for --images and ten times as many.")] = False,
    cache: Annotated[Path, typer.Option(help="For photos and the model.")] = ROOT / ".cache" / "bench",
    out: Annotated[Path | None, typer.Option(help="Write JSON too.")] = None,
) -> None:
    """Measure, print a table, write JSON."""
    files = photo_files.repeat(folder, images, cache)
    model_folder = _model(model, files, cache)
    job = Job(files, images, model_folder, provider, "fp32", threads or cores.available(), batch_size, seconds)
    wanted, skipped = _precisions(precisions, model_folder)
    contests = _contests(job, wanted, _peers(peers, provider, skipped), skipped)
    results: dict[str, Any] = {
        "machine": machine_facts(),
        "settings": {"images": images, "model": model_folder.name, "threads": job.threads, "batch_size": batch_size}
        | {"repeats": repeats, "provider": provider, "precisions": _measured_precisions(model_folder)},
        "skipped": skipped,
    }
    rounds = _measure(contests, repeats)
    results["rates"] = {name: {"median": median(runs), "runs": runs} for name, runs in _rates(rounds).items()}
    results["ratios"] = {name: {"median": median(runs), "runs": runs} for name, runs in _ratios(rounds).items()}
    results["details"] = rounds
    if rss:
        results["rss"] = _rss(replace(job, precision=wanted[0]), folder, cache)
    show(console, results)
    if out:
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _model(given: Path | None, files: Path, cache: Path) -> Path:
    if given:
        return given
    vit_folder = vit.folder(cache)
    if not vit_folder.is_dir():
        console.print(f"making a ViT-B/32 with random weights: {vit_folder}")
        apart(_make_vit, Job(files, 0, vit_folder, "cpu", "fp32", 1, 1))
    return vit_folder


def _make_vit(job: Job) -> None:
    vit.make(job.model, job.photos)


def _precisions(text: str, model: Path) -> tuple[list[str], dict[str, str]]:
    """The precisions to measure, and why others are not measured."""
    has = Bundle(model).manifest.image
    asked = text.split(",")
    wanted = [name for name in asked if name in has]
    if not wanted:
        raise UsageError(f"{model}: has {', '.join(has)}, and {text} is asked for")
    return wanted, {name: f"{model} has no {name} graph" for name in asked if name not in has}


def _peers(text: str, provider: str, skipped: dict[str, str]) -> list[str]:
    """The peers to measure; the reasons why others are not are added to `skipped`."""
    asked = [] if text == "none" else text.split(",")
    if unknown := set(asked) - set(PEERS):
        raise UsageError(f"--peers: no {', '.join(sorted(unknown))}; allowed: {', '.join(PEERS)}, none")
    for name in asked:
        if provider != "cpu":
            skipped[name] = "peers are measured on the CPU alone"
        elif name == "open_clip" and (missing := contenders.open_clip_missing()):
            skipped[name] = missing
    return [name for name in asked if name not in skipped]


def _contests(
    job: Job, precisions: list[str], peers: list[str], skipped: dict[str, str]
) -> dict[str, tuple[Callable[[Job], dict], Job]]:
    """Name -> (function, its job), in the order of one round."""
    contests: dict[str, tuple[Callable[[Job], dict], Job]] = {"decode": (contenders.decode, job)}
    for name in precisions:
        contests[name] = (contenders.ours, replace(job, precision=name))
    if "serial" in peers:
        contests["serial " + precisions[0]] = (contenders.serial, replace(job, precision=precisions[0]))
    if "open_clip" in peers:
        for name in ("fp32", "bf16"):
            peer = replace(job, bf16=name == "bf16")
            contests[f"open_clip {name}"] = (contenders.open_clip, replace(peer, workers=_best_workers(peer)))
    for name, why in skipped.items():
        console.print(f"not measured: {name}: {why}")
    return contests


def _best_workers(job: Job) -> int:
    """Of 0, 1, half and all cores, the number of DataLoader workers that is fastest on a few images."""
    short = replace(job, images=min(job.images, TRIED))
    tried = sorted({0, 1, max(1, job.threads // 2), job.threads})
    rates = {count: apart(contenders.open_clip, replace(short, workers=count))["rate"] for count in tried}
    best = max(rates, key=rates.__getitem__)
    shown = ", ".join(f"{count}: {rate:,.1f}" for count, rate in rates.items())
    console.print(f"open_clip {'bf16' if job.bf16 else 'fp32'}: {best} workers (images/s with {shown})")
    return best


def _measure(contests: dict[str, tuple[Callable[[Job], dict], Job]], repeats: int) -> list[dict[str, dict]]:
    """For each round, what each contender returned."""
    rounds = []
    for number in range(repeats):
        rounds.append({})
        for name, (function, job) in contests.items():
            rounds[-1][name] = apart(function, job)
            console.print(f"round {number + 1} of {repeats}: {name}: {rounds[-1][name]['rate']:,.1f} images/s")
    return rounds


def _rates(rounds: list[dict[str, dict]]) -> dict[str, list[float]]:
    """Images per second of each contender, and of the ceiling that decoding and the model together set.

    On the CPU they share the cores; on CUDA the slower one is the ceiling.
    """
    rates = {name: [results[name]["rate"] for results in rounds] for name in rounds[0]}
    for name in [name for name in rounds[0] if "limit" in rounds[0][name]]:
        rates[f"limit {name}"] = [results[name]["limit"] for results in rounds]
        shared = rounds[0][name]["running_on"].startswith("CPU")
        pairs = zip(rates[f"limit {name}"], rates["decode"], strict=True)
        rates[f"ceiling {name}"] = [1 / (1 / ran + 1 / got) if shared else min(ran, got) for ran, got in pairs]
    return rates


def _ratios(rounds: list[dict[str, dict]]) -> dict[str, list[float]]:
    """In each round, clipline's rate divided by the limit, the ceiling, fp32 and every peer."""
    rates, pairs = _rates(rounds), {}
    mine = [name.removeprefix("limit ") for name in rates if name.startswith("limit ")]
    for name in mine:
        pairs[f"{name} / limit"] = (name, f"limit {name}")
        pairs[f"{name} / ceiling"] = (name, f"ceiling {name}")
        others = [other for other in rates if other.startswith(("open_clip", "serial"))]
        for other in (["fp32"] if name != "fp32" and "fp32" in mine else []) + others:
            pairs[f"{name} / {other}"] = (name, other)
    return {
        key: [ours / theirs for ours, theirs in zip(rates[name], rates[other], strict=True)]
        for key, (name, other) in pairs.items()
    }


def _rss(job: Job, folder: Path, cache: Path) -> dict[str, Any]:
    """Peak memory of the whole process for --images and for ten times as many."""
    peaks = {}
    for count in (job.images, 10 * job.images):
        few = replace(job, photos=photo_files.repeat(folder, count, cache), images=count)
        peaks[count] = apart(contenders.ours, few)["peak_mb"]
        console.print(f"peak memory for {count:,} images, {job.precision}: {peaks[count]:,.0f} MB")
    few, many = peaks.values()
    return {"precision": job.precision, "peak_mb": peaks, "ratio": many / few}


def _measured_precisions(model: Path) -> dict[str, Any]:
    """What export measured of the model's precisions, if it did."""
    path = model / "precisions.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


if __name__ == "__main__":
    launch(main)
