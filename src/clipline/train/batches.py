"""One split on one device: inputs of the towers for chosen rows, or features of frozen towers in their place."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clipline.data.prepared import Split
from clipline.model.device import send
from clipline.train.pixels import PixelStore

# CUDA's kernels like lengths that are multiples of it; and fewer lengths are fewer shapes to compile for.
ROUND = 8
# Of a frozen tower [b, F]; pixels uint8 [b, S, S, 3]; or ids and mask, int64 [t, L] each.
Inputs = Tensor | tuple[Tensor, Tensor]


class Batches:
    """Inputs by row. features: of towers that are frozen or rest, on the device: `image` [n, F], or [n, views, F] of
    which each call draws one, and `text` [c, F]; those in use, once `use` has been called. changes: whether other
    views than the first, which is the image as it is, are drawn.
    """

    def __init__(self, split: Split, features: dict[str, Tensor], device: torch.device) -> None:
        self.split, self.features, self.device = split, features, device
        self._cached = features
        self.changes = True

    def use(self, kinds: Collection[str]) -> None:
        """From now on give features of these towers, and to the others what they are fed."""
        self.features = {kind: each for kind, each in self._cached.items() if kind in kinds}

    def send(self, array: np.ndarray) -> Tensor:
        """An array on the device, without waiting for it."""
        return send(torch.from_numpy(array), self.device)

    @cached_property
    def _pixels(self) -> PixelStore:
        return PixelStore(self.split, self.device)

    @cached_property
    def _tokens(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.from_numpy(each).to(self.device) for each in (self.split.tokens, self.split.lengths))

    def images(self, rows: np.ndarray) -> Tensor:
        """Indices int64 [b] -> features [b, F], or pixels uint8 [b, S, S, 3]."""
        return self._features("image", rows) if "image" in self.features else self._pixels(rows)

    def texts(self, rows: np.ndarray) -> Inputs:
        """Indices int64 [t] -> features [t, F], or ids and mask int64 [t, L], cut to the longest."""
        if "text" in self.features:
            return self._features("text", rows)
        longest = int(self.split.lengths[rows].max())
        if self.device.type == "cuda":
            longest = min(-(-longest // ROUND) * ROUND, self.split.tokens.shape[1])
        (tokens, lengths), index = self._tokens, self.send(rows)
        return trim(tokens[index], lengths[index], longest)

    def _features(self, kind: str, rows: np.ndarray) -> Tensor:
        features, index = self.features[kind], self.send(rows)
        if features.ndim == 2:
            return features[index]
        if not self.changes:
            return features[index, 0]
        # One view of each, drawn by torch's own generator, whose state is kept for a restart.
        return features[index, send(torch.randint(features.shape[1], rows.shape), self.device)]


def trim(tokens_BL: Tensor, lengths_B: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Cut a batch to `longest` tokens: int [B, max] and its lengths -> input_ids, attention_mask int64 [B, L]."""
    mask_BL = torch.arange(longest, device=tokens_BL.device) < lengths_B.unsqueeze(1)
    return tokens_BL[:, :longest].long(), mask_BL.long()
