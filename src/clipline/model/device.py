"""The device of torch's computations, and copies to it."""

from __future__ import annotations

import torch
from torch import Tensor

from clipline.errors import UsageError


def pick_device(choice: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`. Raises UsageError if CUDA is asked for and not available."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise UsageError("train.device: cuda, but torch finds no CUDA device. Fix: train.device=auto")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`; to a GPU asynchronously. The caller may change the tensor at once."""
    # Pinned memory: a copy from other memory may wait for all of the GPU's queued work.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
