"""Which captions go with which images in each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from clipline.data.prepared import Split


class Sampler:
    """Batches of image indices and caption indices into a split, shuffled anew each epoch from one seed.

    captions: `every` caption is a sample; `random`: `per_image` different ones of each image (all, where it has
    fewer), drawn anew each epoch; `once`: one of each image, drawn at the start. The last, short batch is left out
    (its loss would be on another scale), unless it is the only one.
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

    @property
    def state(self) -> dict[str, Any]:
        """What the next epoch is drawn from, as JSON can hold it. Take it before `epoch`, to draw that one again."""
        return self._rng.bit_generator.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state

    def epoch(self, skip: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One epoch, less its first `skip` batches: int64 [b] image indices and int64 [t] caption indices.

        Caption t belongs to image t, but with `random` and several captions per image, where t is up to b times so
        many and `split.caption_image` tells whose each is.
        """
        if self.captions == "every":
            captions = self._rng.permutation(self.samples)
            groups = (captions[start : start + self.batch_size] for start in self._starts(skip))
            yield from ((self.split.caption_image[chosen], chosen) for chosen in groups)
            return
        drawn = self._draw() if self._once is None else self._once
        order = self._rng.permutation(self.samples)
        for start in self._starts(skip):
            images = order[start : start + self.batch_size]
            chosen = drawn[images]
            yield images, chosen[chosen >= 0]

    def _starts(self, skip: int) -> range:
        return range(skip * self.batch_size, self.steps * self.batch_size, self.batch_size)

    def _draw(self) -> np.ndarray:
        """int64 [n, per_image]: different captions of each image, in a random order; -1 where it has no more."""
        widest = int(self._count.max())
        places = np.arange(widest)
        exists = places < self._count[:, None]
        # The order of random numbers is a random order; places that do not exist come last.
        ranks = np.where(exists, self._rng.random((len(self._count), widest)), np.inf)
        order = np.argsort(ranks, axis=1)[:, : self.per_image]
        captions = self._by_image[np.minimum(self._first[:, None] + order, len(self._by_image) - 1)]
        return np.where(np.take_along_axis(exists, order, axis=1), captions, -1)
