"""Items -> embedded images: reading, decoding and the model each in threads of their own, in order throughout.

    items -> load -> (unchanged files and duplicates apart) -> decode -> batches -> model -> results

Each arrow is a bounded queue (`threads.map_ordered`): a slow stage holds back those before it, and closing the last
queue closes all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipline.embed.decode import Decoded, Loaded, decode, load
from clipline.embed.item import Failure, Item, Ledger, Stat
from clipline.embed.stage_timer import StageTimer
from clipline.runtime.model import OnnxModel
from clipline.utils.threads import map_ordered

# Duplicates take little memory, but a batch must not wait for an image behind a million of them.
MAX_DUPLICATES = 10_000


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A file with the bytes of an earlier file, or of its own row but for the date. It gets their vector."""

    path: str
    stat: Stat
    sha256: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """A decoded image and its vector, float32 [dim]."""

    image: Decoded
    vector: np.ndarray


Result = Embedded | Duplicate | Failure


class Engine(Protocol):
    """What can take the place of the local Pipeline. running_on: its devices in words, known after `run`."""

    running_on: str

    def run(self, items: Iterable[Item | Failure]) -> Iterator[list[Result]]:
        """See `Pipeline.run`."""


@dataclass(frozen=True)
class Pipeline:
    """The stages that each item passes on this machine. threads: how many read, and as many again that decode."""

    model: OnnxModel
    ledger: Ledger
    clock: StageTimer
    batch_size: int
    threads: int

    def run(self, items: Iterable[Item | Failure]) -> Iterator[list[Result]]:
        """Blocks of results in the order of `items`; no more than a few batches are in memory at once."""
        ahead = 2 * self.batch_size + self.threads
        loaded = map_ordered(self._load, items, threads=self.threads, ahead=2 * self.threads + 2)
        decoded = map_ordered(self._decode, self._new(loaded), threads=self.threads, ahead=ahead)
        at_once = self.model.calls_at_once
        # One batch waits behind those in the model.
        results = map_ordered(self._infer, self._blocks(decoded), threads=at_once, ahead=at_once + 1)
        with closing(loaded), closing(decoded), closing(results):
            yield from results

    def _load(self, item: Item | Failure) -> Loaded | Failure | None:
        """None for an item whose row is up to date."""
        if isinstance(item, Failure):
            return item
        with self.clock.stage("read"):
            try:
                stat = item.stat()
                loaded = None if self.ledger.is_unchanged(item.path, stat) else load(item, stat)
            except OSError as error:
                return Failure(item.path, "read", error.strerror or str(error))
        if loaded and not self.ledger.is_current(item.path, loaded.sha256, loaded.stat):
            return loaded
        self.ledger.skip(item.path)
        return None

    def _new(self, items: Iterable[Loaded | Failure | None]) -> Iterator[Loaded | Duplicate | Failure]:
        for item in items:
            if isinstance(item, Loaded) and self.ledger.is_duplicate(item.sha256):
                yield Duplicate(item.path, item.stat, item.sha256)
            elif item:
                yield item

    def _decode(self, item: Loaded | Duplicate | Failure) -> Decoded | Duplicate | Failure:
        if not isinstance(item, Loaded):
            return item
        with self.clock.stage("decode"):
            return decode(item, self.model.preprocess)

    def _blocks(self, items: Iterable[Decoded | Duplicate | Failure]) -> Iterator[list[Decoded | Duplicate | Failure]]:
        """As many items as hold one batch of images."""
        block, images = [], 0
        for item in items:
            block.append(item)
            images += isinstance(item, Decoded)
            if images == self.batch_size or len(block) - images >= MAX_DUPLICATES:
                yield block
                block, images = [], 0
        if block:
            yield block

    def _infer(self, block: list[Decoded | Duplicate | Failure]) -> list[Result]:
        images = [item for item in block if isinstance(item, Decoded)]
        with self.clock.stage("model"):
            vectors = iter(self._embed(images))
        return [_checked(item, next(vectors)) if isinstance(item, Decoded) else item for item in block]

    def _embed(self, images: list[Decoded]) -> np.ndarray:
        """float32 [n, dim]. The model always gets a full batch, so that a vector does not depend on n."""
        if not images:
            return np.empty((0, self.model.dim), np.float32)
        size = self.model.preprocess.size
        pixels = np.zeros((self.batch_size, size, size, 3), np.uint8)
        for row, image in enumerate(images):
            pixels[row] = image.pixels
        return self.model.embed_pixels(pixels)[: len(images)]


def _checked(image: Decoded, vector: np.ndarray) -> Embedded | Failure:
    """A Failure for NaN or a zero vector, which no search can use."""
    if not np.isfinite(vector).all():
        return Failure(image.path, "infer", "the model gave NaN", image.sha256)
    if not vector.any():
        return Failure(image.path, "infer", "the model gave a zero vector", image.sha256)
    return Embedded(image, vector)
