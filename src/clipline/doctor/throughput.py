"""Measure images per second of each stage of embedding, alone and together, on the user's images."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from clipline.embed.batch_size import rate
from clipline.embed.decode import Decoded, Loaded, decode, load
from clipline.embed.item import Failure, Item, Source
from clipline.embed.run import Options, embed
from clipline.embed.stage_timer import STAGES
from clipline.errors import CliplineError
from clipline.runtime.model import OnnxModel
from clipline.utils.threads import map_ordered

# The most images to measure with, and the most bytes of their files in memory.
IMAGES, BYTES = 256, 256 << 20
MODEL_SECONDS, RUN_SECONDS = 2.0, 10.0

T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class Rates:
    """Images per second.

    images: the number of images that were measured. failures: the images that could not be read or decoded. stages:
    each stage alone, with all threads. limit: the slowest stage. together: `clipline embed` itself. possible: the most
    that it could reach; decoding and a model on the CPU share the cores.
    """

    images: int
    failures: list[str]
    running_on: str
    batch_size: int
    stages: dict[str, float]
    limit: str
    together: float
    possible: float


def rates(source: Source, model: OnnxModel, threads: int, batch_size: int) -> Rates:
    """Measure on the first images of `source`.

    Raises CliplineError where none of them can be used, and UsageError as `OnnxModel` does.
    """
    items, failures = _first(source)
    results, read = _timed(_load, items, threads)
    failures += [result for result in results if isinstance(result, Failure)]
    loaded = [result for result in results if isinstance(result, Loaded)]
    results, decoding = _timed(lambda file: decode(file, model.preprocess), loaded, threads)
    failures += [result for result in results if isinstance(result, Failure)]
    images = [result for result in results if isinstance(result, Decoded)]
    if not images:
        why = f" ({failures[0].path}: {failures[0].reason})" if failures else ""
        raise CliplineError(f"{source.root}: none of its first images can be used{why}")
    size = min(batch_size, len(images))
    alone = rate(model, np.stack([image.pixels for image in images[:size]]), MODEL_SECONDS)
    good = {image.path for image in images}
    count = max(2 * size, round(alone * RUN_SECONDS))
    usable = _Items(source.root, [item for item in items if item.path in good][:count])
    together, write = _together(usable, model, Options(size, threads=threads))
    stages = dict(zip(STAGES, (read, decoding, alone, write), strict=True))
    slowest = min(stages, key=stages.__getitem__)
    possible = min(decoding, alone) if model.on_cuda else 1 / (1 / decoding + 1 / alone)
    return Rates(
        images=len(images),
        failures=[f"{failure.path}: {failure.stage}: {failure.reason}" for failure in failures],
        running_on=model.running_on,
        batch_size=size,
        stages={name: round(rate, 1) for name, rate in stages.items()},
        limit=slowest,
        together=round(together, 1),
        possible=round(possible, 1),
    )


def _first(source: Source) -> tuple[list[Item], list[Failure]]:
    """The first items of a source, at most IMAGES, with at most BYTES in their files."""
    items, failures, total = [], [], 0
    for item in islice(source, IMAGES):
        if isinstance(item, Failure):
            failures.append(item)
            continue
        with contextlib.suppress(OSError):  # reading the file reports it
            total += item.stat().bytes
        if items and total > BYTES:
            break
        items.append(item)
    return items, failures


def _timed(function: Callable[[T], R], items: list[T], threads: int) -> tuple[list[R], float]:
    """Results in order, and results per second."""
    begun = time.perf_counter()
    done = list(map_ordered(function, items, threads=threads, ahead=4 * threads))
    return done, len(done) / max(time.perf_counter() - begun, 1e-9)


def _load(item: Item) -> Loaded | Failure:
    try:
        return load(item, item.stat())
    except OSError as error:
        return Failure(item.path, "read", error.strerror or str(error))


@dataclass(frozen=True)
class _Items:
    """Items of a source, as a source."""

    root: str
    items: list[Item]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def _together(source: _Items, model: OnnxModel, options: Options) -> tuple[float, float]:
    """Embed into a temporary folder -> images per second in all, and of writing."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        summary = embed(source, model, Path(folder) / "embeddings", options)
        spent = time.perf_counter() - begun
    new = summary.embedded + summary.copies
    return new / spent, new / max(summary.clock.seconds["write"], 1e-9)
