"""AdamW with a group per tower and head, and the schedules of the recipes."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from clipline.config.training import Constant, Cosine, Optimizer, Plateau, Train
from clipline.model.clip import CLIP


def build_optimizer(model: CLIP, config: Optimizer, device: torch.device) -> AdamW:
    """AdamW over what is trainable; each group bears its `name`.

    Vectors and scalars (norms, biases, the temperature) are not decayed; the temperature learns at the head's rate.
    """
    heads = nn.ModuleList([model.image_head, model.text_head, model.temperature])
    parts = {"image": model.image_tower, "text": model.text_tower, "head": heads}
    groups = []
    for name, module in parts.items():
        trainable = [p for p in module.parameters() if p.requires_grad]
        decay = getattr(config.weight_decay, name)
        for params, value in (
            ([p for p in trainable if p.ndim > 1], decay),
            ([p for p in trainable if p.ndim <= 1], 0.0),
        ):
            if params:
                groups.append({"params": params, "lr": getattr(config.lr, name), "weight_decay": value, "name": name})
    fused = device.type == "cuda"
    return AdamW(groups, betas=tuple(config.betas), eps=config.eps, fused=fused)


def learning_rates(optimizer: AdamW) -> dict[str, float]:
    """The present rate of each group: lr_image, lr_text, lr_head (only those that train)."""
    return {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}


class Scheduler:
    """A recipe's schedule: `step` after each optimiser step, `epoch` after each epoch with its validation loss."""

    def __init__(self, optimizer: AdamW, config: Train, steps: int) -> None:
        self._by_step, self._by_epoch = None, None
        match config.schedule:
            case Cosine(warmup=warmup, floor=floor):
                self._by_step = _cosine(optimizer, steps, round(warmup * steps), floor)
            case Plateau(factor=factor, patience=patience):
                self._by_epoch = ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
            case Constant():
                pass

    def step(self) -> None:
        """One optimiser step is done."""
        if self._by_step:
            self._by_step.step()

    def epoch(self, val_loss: float) -> None:
        """One epoch is done."""
        if self._by_epoch:
            self._by_epoch.step(val_loss)


def _cosine(optimizer: AdamW, steps: int, warmup: int, floor: float) -> LambdaLR:
    """Linear warm-up, then a cosine from each group's rate down to `floor` times it (torch's has one floor for all)."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)
