"""How many images per second each stage does here, alone and all together, on the user's own images."""

from __future__ import annotations

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

# Enough to measure, few enough to wait for: images, and bytes of their files in memory.
IMAGES, BYTES = 256, 256 << 20
MODEL_SECONDS, RUN_SECONDS = 2.0, 10.0

T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class Rates:
    """Images per second. stages: each alone, with all threads; together: `clipline embed` itself.

    limit: the slowest stage. possible: what together could reach, since decoding and a model on the CPU share the
    cores. images: of the folder, that were measured; failures: those that could not be read or decoded.
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
    """Measure on the first images of `source`. Raises CliplineError where none of them can be used, UsageError as
    `OnnxModel` does."""
    items, failures = _first(source)
    loaded, read = _timed(_load, items, threads)
    failures += [each for each in loaded if isinstance(each, Failure)]
    decoded, decoding = _timed(
        lambda each: decode(each, model.preprocess), [each for each in loaded if isinstance(each, Loaded)], threads
    )
    failures += [each for each in decoded if isinstance(each, Failure)]
    images = [each for each in decoded if isinstance(each, Decoded)]
    if not images:
        why = f" ({failures[0].path}: {failures[0].reason})" if failures else ""
        raise CliplineError(f"{source.root}: none of its first images can be used{why}")
    size = min(batch_size, len(images))
    alone = rate(model, np.stack([each.pixels for each in images[:size]]), MODEL_SECONDS)
    good = {each.path for each in images}
    together, write = _together(
        _Some(source.root, [item for item in items if item.path in good]), model, Options(size, threads=threads), alone
    )
    stages = dict(zip(STAGES, (read, decoding, alone, write), strict=True))
    slowest = min(stages, key=stages.__getitem__)
    possible = min(decoding, alone) if model.on_cuda else 1 / (1 / decoding + 1 / alone)
    return Rates(
        images=len(images),
        failures=[f"{each.path}: {each.stage}: {each.reason}" for each in failures],
        running_on=model.running_on,
        batch_size=size,
        stages={name: round(rate, 1) for name, rate in stages.items()},
        limit=slowest,
        together=round(together, 1),
        possible=round(possible, 1),
    )


def _first(source: Source) -> tuple[list[Item], list[Failure]]:
    """The first items of a source, until they are many or large."""
    items, failures, total = [], [], 0
    for item in islice(source, IMAGES):
        if isinstance(item, Failure):
            failures.append(item)
            continue
        try:
            total += item.stat().bytes
        except OSError as error:
            failures.append(Failure(item.path, "read", error.strerror or str(error)))
            continue
        if items and total > BYTES:
            break
        items.append(item)
    return items, failures


def _timed(function: Callable[[T], R], items: list[T], threads: int) -> tuple[list[R], float]:
    """Results in order, and how many of them per second."""
    begun = time.perf_counter()
    done = list(map_ordered(function, items, threads=threads, ahead=4 * threads))
    return done, len(done) / max(time.perf_counter() - begun, 1e-9)


def _load(item: Item) -> Loaded | Failure:
    try:
        return load(item, item.stat())
    except OSError as error:
        return Failure(item.path, "read", error.strerror or str(error))


@dataclass(frozen=True)
class _Some:
    """A few items of a source, as a source."""

    root: str
    items: list[Item]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def _together(source: _Some, model: OnnxModel, options: Options, alone: float) -> tuple[float, float]:
    """Embed into a temporary folder, for about RUN_SECONDS -> images per second of it all, and of writing."""
    count = max(2 * options.batch_size, round(alone * RUN_SECONDS))
    source = _Some(source.root, source.items[:count])
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        summary = embed(source, model, Path(folder) / "embeddings", options)
        spent = time.perf_counter() - begun
    new = summary.embedded + summary.copies
    return new / spent, new / max(summary.clock.seconds["write"], 1e-9)
