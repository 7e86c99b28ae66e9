"""Which images and captions form each step's batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from clipline.data.prepared import Split


class Sampler:
    """Batches of image rows and caption rows of a split, shuffled anew in each epoch from one seed.

    captions: `every` caption is a sample; `random`: `per_image` different captions of each image (all, if it has
    fewer), drawn anew in each epoch; `once`: one caption of each image, drawn at the start. The last, short batch is
    left out (its loss would be on another scale), unless it is the only one.
    """

    def __init__(
        self,
        split: Split,
        captions: Literal["every", "random", "once"],
        batch_size: int,
        seed: int,
        per_image: int = 1,
    ) -> None:
        self.split, self.captions, self.batch_size, self.per_image = split, captions, batch_size, per_image
        self._rng = np.random.default_rng(seed)
        # Captions ordered by image: those of image i are _by_image[_first[i] : _first[i] + _count[i]].
        self._by_image = np.argsort(split.caption_image, kind="stable")
        self._count = np.bincount(split.caption_image, minlength=len(split.image_rows))
        self._first = np.cumsum(self._count) - self._count
        self._once = self._draw() if captions == "once" else None
        self.samples = len(split.caption_image) if captions == "every" else len(split.image_rows)

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return max(self.samples // self.batch_size, 1)

    @property
    def state(self) -> dict[str, Any]:
        """The RNG state, as JSON can hold it; read it before `epoch`, to draw the same epoch again."""
        return self._rng.bit_generator.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state

    def epoch(self, skip: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of one epoch after the first `skip`: image rows int64 [b] and caption rows int64 [t].

        Caption t belongs to image t, except with `random` and several captions per image: then t is up to b *
        per_image, and `split.caption_image` tells the image of each caption.
        """
        if self.captions == "every":
            captions = self._rng.permutation(self.samples)
            for start in self._starts(skip):
                rows = captions[start : start + self.batch_size]
                yield self.split.caption_image[rows], rows
            return
        drawn = self._draw() if self._once is None else self._once
        order = self._rng.permutation(self.samples)
        for start in self._starts(skip):
            images = order[start : start + self.batch_size]
            captions = drawn[images]
            yield images, captions[captions >= 0]

    def _starts(self, skip: int) -> range:
        return range(skip * self.batch_size, self.steps * self.batch_size, self.batch_size)

    def _draw(self) -> np.ndarray:
        """int64 [n, per_image]: different captions of each image, in a random order, and -1 if it has fewer."""
        positions = np.arange(int(self._count.max()))
        exists = positions < self._count[:, None]
        # Sorting by random keys gives a random order; positions that do not exist come last.
        keys = np.where(exists, self._rng.random((len(self._count), len(positions))), np.inf)
        order = np.argsort(keys, axis=1)[:, : self.per_image]
        captions = self._by_image[np.minimum(self._first[:, None] + order, len(self._by_image) - 1)]
        return np.where(np.take_along_axis(exists, order, axis=1), captions, -1)
