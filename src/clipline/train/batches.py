"""The towers' inputs for given rows of a split, or cached features in their place, on one device."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clipline.data.prepared import Split
from clipline.model.device import send
from clipline.train.pixels import PixelStore

# On CUDA, text lengths are rounded up to a multiple of this: kernels prefer such lengths, and fewer shapes are
# compiled.
LENGTH_MULTIPLE = 8
# Cached features [b, F]; pixels uint8 [b, S, S, 3]; or ids and mask, int64 [t, L] each.
Inputs = Tensor | tuple[Tensor, Tensor]


class Batches:
    """The inputs of one split by row.

    features: cached features by tower, on the device: `image` [n, F] or [n, 1 + views, F], and `text` [c, F]. `use`
    selects which of them are in use. all_views: whether calls draw one of the views at random; otherwise they give the
    first, which is of the unchanged image.
    """

    def __init__(self, split: Split, features: dict[str, Tensor], device: torch.device) -> None:
        self.split, self.features, self.device = split, features, device
        self._cached = features
        self.all_views = True

    def use(self, towers: Collection[str]) -> None:
        """From now on give cached features for these towers, and inputs for the others."""
        self.features = {kind: features for kind, features in self._cached.items() if kind in towers}

    def send(self, array: np.ndarray) -> Tensor:
        """The array on the device, by an asynchronous copy."""
        return send(torch.from_numpy(array), self.device)

    @cached_property
    def _pixels(self) -> PixelStore:
        return PixelStore(self.split, self.device)

    @cached_property
    def _tokens(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.from_numpy(array).to(self.device) for array in (self.split.tokens, self.split.lengths))

    def images(self, rows: np.ndarray) -> Tensor:
        """Rows int64 [b] -> features [b, F], or pixels uint8 [b, S, S, 3]."""
        return self._features("image", rows) if "image" in self.features else self._pixels(rows)

    def texts(self, rows: np.ndarray) -> Inputs:
        """Rows int64 [t] -> features [t, F], or ids and mask, int64 [t, L], cut to the longest text."""
        if "text" in self.features:
            return self._features("text", rows)
        max_length = int(self.split.lengths[rows].max())
        if self.device.type == "cuda":
            max_length = min(-(-max_length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self.split.tokens.shape[1])
        (tokens, lengths), index = self._tokens, self.send(rows)
        return trim(tokens[index], lengths[index], max_length)

    def _features(self, kind: str, rows: np.ndarray) -> Tensor:
        features, index = self.features[kind], self.send(rows)
        if features.ndim == 2:
            return features[index]
        if not self.all_views:
            return features[index, 0]
        # Drawn by torch's global generator, whose state is saved for a restart.
        return features[index, send(torch.randint(features.shape[1], rows.shape), self.device)]


def trim(tokens_BL: Tensor, lengths_B: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """Cut padded tokens, int [B, max], to max_length: input_ids and attention_mask, int64 [B, L]. lengths_B: int."""
    mask_BL = torch.arange(max_length, device=tokens_BL.device) < lengths_B.unsqueeze(1)
    return tokens_BL[:, :max_length].long(), mask_BL.long()


def micro_batches(inputs: Inputs, size: int) -> Sequence[Inputs]:
    """Split inputs into parts of at most `size` rows."""
    if isinstance(inputs, tuple):
        return list(zip(*(tensor.split(size) for tensor in inputs), strict=True))
    return inputs.split(size)
