"""The programs that bench/embed.py measures, each in its own process, so that none inherits threads or memory.

Each function takes a Job and returns images per second and other figures.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from clipline.embed.batch_size import rate
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.errors import CliplineError
from clipline.runtime.model import OnnxModel
from clipline.utils.threads import map_ordered

# Bytes of files in memory for decoding alone.
LOADED = 256 << 20


@dataclass(frozen=True)
class Job:
    """photos: their folder. seconds: for measurements without an end. workers: of a DataLoader. bf16: autocast."""

    photos: Path
    images: int
    model: Path
    provider: str
    precision: str
    threads: int
    batch_size: int
    seconds: float = 10.0
    workers: int = 0
    bf16: bool = False

    def open(self) -> OnnxModel:
        """The model, after one call of this batch size, which allocates its memory."""
        model = OnnxModel(self.model, provider=self.provider, precision=self.precision, threads=self.threads, bulk=True)
        size = model.preprocess.size
        model.embed_pixels(np.zeros((self.batch_size, size, size, 3), np.uint8))
        return model

    def files(self) -> list[Path]:
        """The photos, in order."""
        return sorted(self.photos.rglob("*.jpg"))[: self.images]


def apart(function, job: Job) -> dict[str, Any]:
    """`function(job)` in a new process. Raises what it raises."""
    # As the stages do: threads that spin while they wait lose most of their speed on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, job).result()


def ours(job: Job) -> dict[str, Any]:
    """clipline end to end: files -> parquet. `limit`: the same session on a ready batch, before and after.

    Raises CliplineError where an image fails: the rates would not be comparable.
    """
    model = job.open()
    pixels = np.stack([model.preprocess.read(file)[0] for file in islice(cycle(job.files()), job.batch_size)])
    limits = [rate(model, pixels, job.seconds / 2)]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        options = Options(batch_size=job.batch_size, threads=job.threads)
        summary = embed(Folder(job.photos), model, Path(folder) / "embeddings", options)
        seconds = time.perf_counter() - begun
    limits.append(rate(model, pixels, job.seconds / 2))
    if summary.embedded != job.images:
        raise CliplineError(f"{summary.embedded} of {job.images} images embedded: {summary.failures}")
    return {
        "rate": summary.embedded / seconds,
        "limit": sum(limits) / 2,
        "thread_seconds": {name: round(spent, 2) for name, spent in summary.clock.seconds.items()},
        "peak_mb": peak_mb(),
        "running_on": summary.running_on,
    }


def decode(job: Job) -> dict[str, Any]:
    """Decoding and resizing alone, from memory, with all threads."""
    preprocess, data, total = OnnxModel(job.model, provider="cpu").preprocess, [], 0
    for file in job.files():
        data.append(file.read_bytes())
        total += len(data[-1])
        if total > LOADED:
            break
    begun = time.perf_counter()
    for _ in map_ordered(preprocess.read, islice(cycle(data), job.images), threads=job.threads, ahead=4 * job.threads):
        pass
    return {"rate": job.images / (time.perf_counter() - begun)}


def serial(job: Job) -> dict[str, Any]:
    """As fastembed works: decode a batch, then run it with onnxruntime's defaults, in turn."""
    import onnxruntime

    ours_opened = job.open()
    graph = job.model / ours_opened.bundle.manifest.image[job.precision].file
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    files, read = job.files(), ours_opened.preprocess.read
    session.run(None, {"pixels": np.stack([read(file)[0] for file in files[: job.batch_size]])})
    del ours_opened
    begun = time.perf_counter()
    for start in range(0, len(files), job.batch_size):
        pixels = np.stack([read(file)[0] for file in files[start : start + job.batch_size]])
        session.run(None, {"pixels": pixels})
    return {"rate": len(files) / (time.perf_counter() - begun)}


def open_clip_missing() -> str:
    """Why open_clip cannot be measured; empty if it can."""
    if importlib.util.find_spec("open_clip") is None:
        return "open_clip is not installed: pip install --no-deps open_clip_torch ftfy"
    return ""


def open_clip_version() -> str:
    """The version that is installed."""
    return importlib.metadata.version("open_clip_torch")


class _Photos:
    """A dataset for torch's DataLoader: files through open_clip's preprocessing."""

    def __init__(self, files: list[Path], transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        from PIL import Image

        return self.transform(Image.open(self.files[index]))


def open_clip(job: Job) -> dict[str, Any]:
    """open_clip's ViT-B/32 with random weights, fed by a torch DataLoader, as its README shows."""
    import open_clip as package
    import torch
    from torch.utils.data import DataLoader

    logging.disable(logging.WARNING)  # it warns that the weights are random
    torch.set_num_threads(job.threads)
    model, _, transform = package.create_model_and_transforms("ViT-B-32", pretrained=None)
    model.eval()
    files = job.files()
    loader = DataLoader(_Photos(files, transform), batch_size=job.batch_size, num_workers=job.workers)
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if job.bf16 else nullcontext()
    done = 0
    with torch.inference_mode(), cast:
        model.encode_image(torch.zeros(job.batch_size, 3, 224, 224), normalize=True)
        begun = time.perf_counter()
        for pixels in loader:
            done += len(model.encode_image(pixels, normalize=True).float().numpy())
    return {"rate": done / (time.perf_counter() - begun), "workers": job.workers}


def peak_mb() -> float:
    """The peak memory of this process in MB.

    From VmHWM, where the system has it: getrusage also counts what the parent held when it started this process.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
    except (OSError, IndexError):
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
