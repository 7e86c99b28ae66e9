"""Where torch computes."""

from __future__ import annotations

import torch

from clipline.errors import UsageError


def pick_device(choice: str) -> torch.device:
    """auto, cpu or cuda -> a device. Raises UsageError where CUDA is asked for and absent."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise UsageError("train.device: cuda was asked for, but torch finds no CUDA device. Mend: train.device=auto")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")
