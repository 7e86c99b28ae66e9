"""How fast searches of large embeddings are, exact and approximate, against numpy, usearch and faiss, in one run.

    python bench/search.py --embeddings flickr8k-embeddings --captions flickr8k/captions.txt
    python bench/search.py --images flickr8k/Images --model models/onnx --captions captions.txt --rows 50000
    pip install --target peers faiss-cpu && PYTHONPATH=peers python bench/search.py ...

The embeddings are copies of real ones, each with other gaussian noise of expected length --noise, then normalised. At
0.57 two copies of an image have the cosine 0.755, which is what Flickr8k's images have with their nearest neighbours
(median, mobilenet_minilm): random vectors would say nothing about recall. Longer embeddings are first projected to
--dim by a fixed random matrix with orthonormal columns, captions by the same. Even captions tune the approximate index,
odd ones measure it. The cold process is a complete search: interpreter, imports, the folder, the text model, one
caption, its answer; the page cache is dropped before it (needs root, else only that of the files).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from command import launch
from machine_facts import machine_facts
from rich.console import Console
from rich.table import Table

from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Row
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from clipline.search import approximate, exact
from clipline.search.cache import cache_folders
from clipline.search.index import Index
from clipline.utils import cores
from clipline.utils.files import atomic_folder
from clipline.utils.progress import Bar

ROOT = Path(__file__).resolve().parent.parent
SEED, BATCH, NAMED = 0, 10_000, "flickr/{:03d}/{:07d}.jpg"
TARGETS = {
    "exact, warm: ms": "< 500",
    "exact, cold process: s": "< 4",
    "peak memory / file": "< 1.5",
    "approximate: recall@10": ">= 0.97",
    "approximate, warm: ms": "< 20",
}
console = Console()


def main(
    captions: Annotated[Path, typer.Option(help="Real queries: Flickr8k's captions.txt, or a text line by line.")],
    model: Annotated[Path, typer.Option(help="The exported model.")] = ROOT / "models/onnx",
    images: Annotated[Path | None, typer.Option(help="Images to embed with it.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Or their embeddings, by the same model.")] = None,
    rows: Annotated[int, typer.Option(min=100)] = 1_000_000,
    dim: Annotated[int, typer.Option(min=8, help="Longer embeddings are projected to it.")] = 512,
    noise: Annotated[float, typer.Option(min=0, help="Expected length of the noise; an embedding's is 1.")] = 0.57,
    queries: Annotated[int, typer.Option(min=2, help="Captions: half tune, half measure.")] = 400,
    repeats: Annotated[int, typer.Option(min=1, help="Cold processes, and passes of the slow peers.")] = 3,
    graph: Annotated[bool, typer.Option("--approximate/--no-approximate")] = True,
    cache: Annotated[Path, typer.Option(help="For the embeddings.")] = ROOT / ".cache" / "bench",
    out: Annotated[Path | None, typer.Option(help="Write JSON too.")] = None,
) -> None:
    """Make the embeddings if they are not there, measure, print a table, write JSON."""
    folder = cache / f"search-{rows}-{dim}-{noise:g}"
    texts = _texts(captions, queries)
    if not (folder / "manifest.json").exists():
        _make(folder, Index(_base(images, embeddings, model, cache)), rows, dim, noise)
    vectors = _project(OnnxModel(model, provider="cpu").embed_texts(texts), dim)
    tune, measure = vectors[::2], vectors[1::2]
    results: dict[str, Any] = {
        "machine": machine_facts(),
        "settings": {"rows": rows, "dim": dim, "noise": noise, "queries": len(measure), "threads": cores.available()},
    }
    start = time.perf_counter()
    index = Index(folder)
    figures = {"first opening: s": time.perf_counter() - start}
    size = sum(part.bytes for part in index.state.parts)
    figures |= {"parts: MB": size / 1e6, "vectors: MB": index.vectors.nbytes / 1e6}
    truth = exact.search(index.vectors, measure, 10)
    figures |= _timed("exact, warm", lambda query: index.search(query, 10), measure)
    figures |= _cold(folder, model, texts[1], dim, repeats)
    figures |= _peers(index, measure, truth, repeats)
    if graph:
        figures |= _approximate(index, tune, measure, truth)
    results["figures"] = {name: float(f"{value:.4g}") for name, value in figures.items()}
    _show(results)
    if out:
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _texts(file: Path, count: int) -> list[str]:
    """`count` captions, from all over the file, which is a table where its header is `image,caption`."""
    with file.open(newline="", encoding="utf-8") as lines:
        if lines.readline().strip() == "image,caption":
            captions = [row[1] for row in csv.reader(lines)]
        else:
            lines.seek(0)
            captions = [line.strip() for line in lines if line.strip()]
    return captions[:: max(1, len(captions) // count)][:count]


def _base(images: Path | None, embeddings: Path | None, model: Path, cache: Path) -> Path:
    """A folder with real embeddings."""
    if embeddings:
        return embeddings
    if images is None:
        raise UsageError("name real images with --images, or their embeddings with --embeddings")
    opened = OnnxModel(model, provider="cpu", bulk=True)
    folder = cache / f"search-base-{opened.model_id}-{to_text(images.resolve().name)}"
    if not (folder / "manifest.json").exists():
        with atomic_folder(folder) as new:
            embed(Folder(images), opened, new, Options())
    return folder


def _make(folder: Path, base: Index, count: int, dim: int, noise: float) -> None:
    """An embeddings folder of `count` rows, by the project's own writer."""
    rng = np.random.default_rng(SEED)
    real = _project(base.vectors.astype(np.float32), dim)
    shape = {"dim": real.shape[1], "dtype": "float16"}
    identity = Identity(model_id=base.manifest.model_id, variant=base.manifest.variant, **shape, root=".", model=".")
    with atomic_folder(folder) as new, Writer(new, identity, Options().part_rows) as writer:
        with Bar("making embeddings", count, "rows") as bar:
            for start in range(0, count, BATCH):
                numbers = np.arange(start, min(start + BATCH, count))
                block = rng.standard_normal((len(numbers), real.shape[1]), np.float32) * noise / real.shape[1] ** 0.5
                block = _unit(real[numbers % len(real)] + block).astype(np.float16)
                for number, vector in zip(numbers.tolist(), block, strict=True):
                    writer.add(Row(NAMED.format(number % 1000, number), 1, 1, f"{number:064x}", 1, 1), vector)
                bar.advance(len(numbers))
        writer.finish([])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _project(vectors: np.ndarray, dim: int) -> np.ndarray:
    """float32 [n, d] -> [n, min(d, dim)], L2-normalised."""
    if vectors.shape[1] <= dim:
        return _unit(vectors)
    square = np.random.default_rng(SEED).standard_normal((vectors.shape[1], dim))
    return _unit(vectors @ np.linalg.qr(square)[0].astype(np.float32))


def _timed(name: str, call: Callable[[np.ndarray], Any], queries: np.ndarray) -> dict[str, float]:
    """Milliseconds of one query at a time, after a first one that warms up."""
    call(queries[:1])
    taken = []
    for row in range(len(queries)):
        start = time.perf_counter()
        call(queries[row : row + 1])
        taken.append(1000 * (time.perf_counter() - start))
    return {f"{name}: ms": median(taken), f"{name}, 95th of 100: ms": float(np.percentile(taken, 95))}


def _cold(folder: Path, model: Path, text: str, dim: int, repeats: int) -> dict[str, float]:
    """A new process that searches once, with nothing of the disk in memory; and the same with all of it there."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    peak, size = 0.0, 1
    for kind in ["cold", "warm"] * repeats:
        if kind == "cold":
            _drop_cache(folder)
        start = time.perf_counter()
        command = [sys.executable, __file__, "--once", str(folder), str(model), text, str(dim)]
        memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        seconds[kind].append(time.perf_counter() - start)
        peak, size = max(peak, memory["peak"]), memory["file"]
    figures = {f"exact, {kind} process: s": median(times) for kind, times in seconds.items()}
    return figures | {"exact, cold process, longest: s": max(seconds["cold"]), "peak memory / file": peak / size}


def _drop_cache(folder: Path) -> None:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        console.print("note: no permission to drop the page cache: only that of the vectors is dropped")
        for path in (folder, *cache_folders(folder)):
            for file in path.glob("*") if path.is_dir() else ():
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _once(folder: str, model: str, text: str, dim: str) -> None:
    """What the cold process does, as `clipline search` would, but for the projection of its query."""
    index = Index(Path(folder))
    index.read_ahead()
    query = _project(OnnxModel(Path(model), provider="cpu").embed_texts([text]), int(dim))
    assert len(index.search(query, 9)[0]) == 9
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak": peak, "file": index.vectors.nbytes}))


def _peers(index: Index, queries: np.ndarray, truth: list[exact.Best], repeats: int) -> dict[str, float]:
    """The same by brute force: numpy in float32 block by block, usearch on its own, and faiss where it is installed."""
    from usearch.index import search

    def in_numpy(query: np.ndarray) -> np.ndarray:
        blocks = range(0, len(index), exact.BLOCK)
        scores = [index.vectors[start : start + exact.BLOCK].astype(np.float32) @ query[0] for start in blocks]
        return np.concatenate(scores)

    figures = _timed("numpy, float32", in_numpy, queries[:repeats])
    wrong, off = 0, 0.0
    for row, best in enumerate(truth):
        scores = in_numpy(queries[row : row + 1])
        order = np.argsort(-scores, kind="stable")[:10]
        wrong += int((scores[best.rows] < scores[order[-1]] - 1e-6).sum())
        off = max(off, float(np.abs(scores[best.rows] - best.scores).max()))
    figures |= {"exact: rows that numpy does not find": wrong, "exact: largest difference to numpy": off}
    half = queries.astype(np.float16)
    figures |= _timed("usearch exact", lambda query: search(index.vectors, query, 10, "ip", exact=True), half)
    try:
        import faiss
    except ImportError:
        console.print("note: faiss is not installed")
        return figures
    flat = faiss.IndexScalarQuantizer(index.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(index), BATCH):
        flat.add(index.vectors[start : start + BATCH].astype(np.float32))
    return figures | _timed("faiss flat fp16", lambda query: flat.search(query, 10), queries[: 10 * repeats])


def _approximate(index: Index, tune: np.ndarray, measure: np.ndarray, truth: list[exact.Best]) -> dict[str, float]:
    for cache in cache_folders(index.folder):
        (cache / approximate.METADATA).unlink(missing_ok=True)  # of an earlier run: building it is measured
    start = time.perf_counter()
    graph = approximate.open_or_build(index, lambda: tune, console.print)
    figures = {"approximate: build s": time.perf_counter() - start, "approximate: recall@10, tuned": graph.recall}
    best = [graph.search(query[np.newaxis], 10)[0] for query in measure]
    shares = [(some.scores >= true.scores[-1] - 1e-6).mean() for some, true in zip(best, truth, strict=True)]
    figures["approximate: recall@10"] = float(np.mean(shares))
    return figures | _timed("approximate, warm", lambda query: index.hits(graph.search(query, 10)), measure)


def _show(results: dict[str, Any]) -> None:
    machine, settings = results["machine"], results["settings"]
    for line in (f"{machine['date']}  {machine['cpu']}", machine["system"], str(settings)):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table("what", "measured", "aim")
    for name, value in results["figures"].items():
        table.add_row(name, f"{value:,.4g}", TARGETS.get(name, ""))
    console.print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        _once(*sys.argv[2:])
        sys.exit()
    launch(main)
