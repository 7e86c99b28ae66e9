"""Which caption goes with which image in each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from clipline.data.prepared import Split


class Sampler:
    """Batches of (image index, caption index) into a split, shuffled anew each epoch from one seed.

    captions: `every` caption is a sample; `random`: one of each image, drawn anew each epoch; `once`: one of each
    image, drawn at the start. The last, short batch is left out (its loss would be on another scale), unless it
    is the only one.
    """

    def __init__(self, split: Split, captions: Literal["every", "random", "once"], batch_size: int, seed: int) -> None:
        self.split, self.captions, self.batch_size = split, captions, batch_size
        self._rng = np.random.default_rng(seed)
        # Captions ordered by image, so that image i owns _by_image[_first[i] : _first[i] + _count[i]].
        self._by_image = np.argsort(split.caption_image, kind="stable")
        self._count = np.bincount(split.caption_image, minlength=len(split.image_rows))
        self._first = np.cumsum(self._count) - self._count
        self._once = self._draw() if captions == "once" else None
        self.samples = len(split.caption_image) if captions == "every" else len(split.image_rows)

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return max(self.samples // self.batch_size, 1)

    def _draw(self) -> np.ndarray:
        return self._by_image[self._first + self._rng.integers(0, self._count)]

    def epoch(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One epoch: int64 [b] image indices and int64 [b] caption indices, `steps` times."""
        if self.captions == "every":
            captions = self._rng.permutation(self.samples)
        else:
            drawn = self._draw() if self._once is None else self._once
            captions = drawn[self._rng.permutation(self.samples)]
        for step in range(self.steps):
            chosen = captions[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.split.caption_image[chosen], chosen
