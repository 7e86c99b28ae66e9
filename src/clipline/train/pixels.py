"""The pixels of a split for chosen rows: in the GPU's memory where they fit, else from the file.

A small dataset fits as it is, uint8: Flickr8k's training images at 224 pixels are 0.9 GB. Then a batch costs one
gather on the GPU, and neither the disk nor the bus is in its way.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipline.data.prepared import Split
from clipline.model.device import send

# Of the GPU's free memory, that pixels may take: weights, moments and activations come later and need the rest.
SHARE = 0.25
# Bytes that are on their way to the GPU at once while it is filled.
PIECE = 1 << 28


class PixelStore:
    """Call it with rows of the split: int64 [b] -> uint8 [b, S, S, 3] on the device, a tensor of its own.

    resident: whether all pixels are in the device's memory.
    """

    def __init__(self, split: Split, device: torch.device, *, free: int | None = None) -> None:
        """free: bytes of the device's memory that are free; None asks it. The CPU keeps the file's pages itself."""
        self.device = device
        self._images, self._rows = split.images, split.image_rows
        if free is None:
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        bytes_each = int(np.prod(self._images.shape[1:]))
        self.resident = len(self._rows) * bytes_each <= SHARE * free
        self._all = self._fill(max(PIECE // bytes_each, 1)) if self.resident else None

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Raises IndexError for a row that the split lacks."""
        in_file = self._rows[rows]  # here and not on the GPU, where a wrong row ends the process some time later
        if self._all is None:
            return self._read(in_file)
        return self._all[send(torch.from_numpy(rows), self.device)]

    def _fill(self, step: int) -> Tensor:
        """All pixels of the split on the device, in its order."""
        everything = torch.empty((len(self._rows), *self._images.shape[1:]), dtype=torch.uint8, device=self.device)
        for start in range(0, len(self._rows), step):
            everything[start : start + step] = torch.from_numpy(self._images[self._rows[start : start + step]])
        return everything

    def _read(self, rows: np.ndarray) -> Tensor:
        """Rows of the file -> the device. In the file's order, which is kinder to the disk, and put in theirs there."""
        order = np.argsort(rows, kind="stable")
        place = torch.from_numpy(np.argsort(order, kind="stable"))
        if self.device.type != "cuda":
            return torch.from_numpy(self._images[rows[order]])[place].to(self.device)
        # Page-locked, so that the copy runs while this thread goes on. torch gives the memory to another batch only
        # once the copy is done.
        pixels = torch.empty((len(rows), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=True)
        # Any mode but `raise` writes without a buffer between; the rows are the split's own and exist.
        np.take(self._images, rows[order], axis=0, out=pixels.numpy(), mode="clip")
        return pixels.to(self.device, non_blocking=True)[send(place, self.device)]
