"""Items -> embedded images: reading, decoding and the model each in threads of their own, in order throughout.

    items -> load -> (unchanged files and duplicates apart) -> decode -> batches -> model -> rows

Each arrow is a bounded queue (`threads.map_ordered`): a slow stage holds back those before it, and closing the
last one closes all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipline.embed.clock import StageTimer
from clipline.embed.decode import Decoded, Loaded, decode, load
from clipline.embed.item import Failure, Item, Ledger, Stat
from clipline.runtime.model import OnnxModel
from clipline.utils.threads import map_ordered

# Duplicates cost little memory, but a batch must not wait for an image behind a million of them.
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
UNCHANGED = None  # in the stream: this item's row is there already


class Engine(Protocol):
    """Something that does a Pipeline's work elsewhere. running_on: in words, known after `run`."""

    running_on: str

    def run(self, items: Iterable[Item | Failure]) -> Iterator[list[Result]]:
        """As `Pipeline.run`."""


@dataclass(frozen=True)
class Pipeline:
    """What all items go through. threads: that read, and as many that decode."""

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
        # One batch behind those in the model.
        done = map_ordered(self._infer, self._blocks(decoded), threads=at_once, ahead=at_once + 1)
        with closing(loaded), closing(decoded), closing(done):
            yield from done

    def _load(self, item: Item | Failure) -> tuple[str, Loaded | Failure | None]:
        if isinstance(item, Failure):
            return item.path, item
        with self.clock.stage("read"):
            try:
                stat = item.stat()
                if self.ledger.is_unchanged(item.path, stat):
                    return item.path, UNCHANGED
                found = load(item, stat)
            except OSError as error:
                return item.path, Failure(item.path, "read", error.strerror or str(error))
        return item.path, UNCHANGED if self.ledger.is_current(found.path, found.sha256, found.stat) else found

    def _new(self, loaded: Iterable[tuple[str, Loaded | Failure | None]]) -> Iterator[Loaded | Duplicate | Failure]:
        for path, found in loaded:
            if found is UNCHANGED:
                self.ledger.skip(path)
            elif isinstance(found, Loaded) and self.ledger.is_duplicate(found.sha256):
                yield Duplicate(found.path, found.stat, found.sha256)
            else:
                yield found

    def _decode(self, found: Loaded | Duplicate | Failure) -> Decoded | Duplicate | Failure:
        if not isinstance(found, Loaded):
            return found
        with self.clock.stage("decode"):
            return decode(found, self.model.preprocess)

    def _blocks(
        self, results: Iterable[Decoded | Duplicate | Failure]
    ) -> Iterator[list[Decoded | Duplicate | Failure]]:
        """As many results as hold one batch of images."""
        block, images = [], 0
        for result in results:
            block.append(result)
            images += isinstance(result, Decoded)
            if images == self.batch_size or len(block) - images >= MAX_DUPLICATES:
                yield block
                block, images = [], 0
        if block:
            yield block

    def _infer(self, block: list[Decoded | Duplicate | Failure]) -> list[Result]:
        images = [each for each in block if isinstance(each, Decoded)]
        with self.clock.stage("model"):
            vectors = iter(self._embed(images))
        return [self._checked(each, next(vectors)) if isinstance(each, Decoded) else each for each in block]

    def _embed(self, images: list[Decoded]) -> np.ndarray:
        """float32 [n, dim]. Always of a full batch, so that a vector does not depend on how many came with it."""
        if not images:
            return np.empty((0, self.model.dim), np.float32)
        size = self.model.preprocess.size
        pixels = np.zeros((self.batch_size, size, size, 3), np.uint8)
        for row, image in enumerate(images):
            pixels[row] = image.pixels
        return self.model.embed_pixels(pixels)[: len(images)]

    @staticmethod
    def _checked(image: Decoded, vector: np.ndarray) -> Embedded | Failure:
        """No search could use NaN or a zero vector."""
        if not np.isfinite(vector).all():
            return Failure(image.path, "infer", "the model gave NaN", image.sha256)
        if not vector.any():
            return Failure(image.path, "infer", "the model gave a zero vector", image.sha256)
        return Embedded(image, vector)
