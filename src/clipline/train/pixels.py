"""The pixels of a split by row: from the GPU's memory if they fit, else from the file.

A small dataset fits: Flickr8k's training images at 224 pixels are 0.9 GB as uint8. A batch is then one gather on the
GPU, without waiting for the disk or the bus.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipline.data.prepared import Split
from clipline.model.device import send

# The share of the GPU's free memory that pixels may take; weights, moments and activations come later.
MEMORY_SHARE = 0.25
# Bytes copied at a time while the GPU's memory is filled.
COPY_BYTES = 1 << 28


class PixelStore:
    """Callable: rows of the split, int64 [b] -> uint8 [b, S, S, 3] on the device, a tensor that the caller may change.

    resident: whether all pixels are in the device's memory.
    """

    def __init__(self, split: Split, device: torch.device, *, free_bytes: int | None = None) -> None:
        """free_bytes: of the device's memory; None asks CUDA. On the CPU the file's pages are cached anyway."""
        self.device = device
        self._images, self._rows = split.images, split.image_rows
        if free_bytes is None:
            free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        image_bytes = int(np.prod(self._images.shape[1:]))
        self.resident = len(self._rows) * image_bytes <= MEMORY_SHARE * free_bytes
        self._all = self._load_all(max(COPY_BYTES // image_bytes, 1)) if self.resident else None

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Raises IndexError for a row that does not exist."""
        in_file = self._rows[rows]  # checks the rows: on the GPU, a wrong one would end the process some time later
        if self._all is None:
            return self._read(in_file)
        return self._all[send(torch.from_numpy(rows), self.device)]

    def _load_all(self, step: int) -> Tensor:
        """All pixels of the split on the device, in its order; `step` images at a time."""
        pixels = torch.empty((len(self._rows), *self._images.shape[1:]), dtype=torch.uint8, device=self.device)
        for start in range(0, len(self._rows), step):
            pixels[start : start + step] = torch.from_numpy(self._images[self._rows[start : start + step]])
        return pixels

    def _read(self, rows: np.ndarray) -> Tensor:
        """Rows of the file on the device. They are read in the file's order, which is faster, and then reordered."""
        order = np.argsort(rows, kind="stable")
        original_order = torch.from_numpy(np.argsort(order, kind="stable"))
        if self.device.type != "cuda":
            return torch.from_numpy(self._images[rows[order]])[original_order].to(self.device)
        # Pinned memory, for an asynchronous copy. torch reuses the memory only once the copy is done.
        pixels = torch.empty((len(rows), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=True)
        # Any mode except `raise` writes without an intermediate buffer; the rows are the split's own and exist.
        np.take(self._images, rows[order], axis=0, out=pixels.numpy(), mode="clip")
        return pixels.to(self.device, non_blocking=True)[send(original_order, self.device)]
