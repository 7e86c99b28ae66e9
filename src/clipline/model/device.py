"""Where torch computes."""

from __future__ import annotations

import torch
from torch import Tensor

from clipline.errors import UsageError


def pick_device(choice: str) -> torch.device:
    """auto, cpu or cuda -> a device. Raises UsageError where CUDA is asked for and absent."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise UsageError("train.device: cuda was asked for, but torch finds no CUDA device. Fix: train.device=auto")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; the copy to a GPU runs while this thread goes on, and the tensor may change then."""
    # Page-locked, as a copy from other memory may wait until all that the GPU has to do is done.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
