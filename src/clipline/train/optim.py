"""AdamW with parameter groups by tower, depth and weight decay; the recipes' schedules; frozen layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from clipline.config.training import Constant, Cosine, Freeze, Optimizer, Plateau, Train
from clipline.model.clip import CLIP
from clipline.model.depth import depths


def build_optimizer(model: CLIP, config: Optimizer, device: torch.device) -> AdamW:
    """AdamW over the trainable parameters; the `name` of a group is `image`, `text` or `head`.

    Vectors and scalars (norms, biases, the temperature) have no weight decay; the temperature learns at the head's
    rate. With layer decay, a tower's rate is that of its last layer.
    """
    groups: dict[tuple, dict] = {}
    layers = {
        kind: depths(tower) if getattr(config.layer_decay, kind) < 1 else {}
        for kind, tower in (("image", model.image_tower), ("text", model.text_tower))
    }
    for name, param in model.named_parameters():
        if param.requires_grad:
            kind, _, key = name.partition("_tower.")
            kind, layer_decay = (kind, getattr(config.layer_decay, kind)) if key else ("head", 1.0)
            layer = layers.get(kind, {})
            last = max(layer.values(), default=0)
            below = last - layer.get(key, last)
            decay = getattr(config.weight_decay, kind) if param.ndim > 1 else 0.0
            rate = getattr(config.lr, kind) * layer_decay**below
            group = {"lr": rate, "weight_decay": decay, "name": kind, "params": []}
            groups.setdefault((kind, below, decay), group)["params"].append(param)
    # A tower's last layer comes first: `learning_rates` depends on it.
    ordered = [groups[key] for key in sorted(groups, key=lambda key: (key[0], key[1]))]
    return AdamW(ordered, betas=tuple(config.betas), eps=config.eps, fused=True)


def learning_rates(optimizer: AdamW) -> dict[str, float]:
    """The present learning rates of what is trained: lr_image and lr_text (of the last layer), and lr_head."""
    return {f"lr_{group['name']}": group["lr"] for group in reversed(optimizer.param_groups)}


def set_frozen(model: CLIP, freeze: Freeze, epoch: int) -> None:
    """Freeze the layers of trainable towers that are not trained in `epoch` (from 1), and unfreeze the others.

    A frozen parameter gets no gradient, so that AdamW skips it. Its batch norms still follow the data, as in a tower
    that is trained, unless `train.batch_norm` is frozen.
    """
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if not getattr(freeze, name) or tower in model.frozen:
            continue
        layer = depths(tower)
        first = math.ceil(freeze.share(name, epoch) * (max(layer.values()) + 1))
        for key, param in tower.named_parameters():
            param.requires_grad_(layer.get(key, first) >= first)


class Scheduler:
    """A recipe's schedule: call `step` after each optimiser step, and `epoch` after each epoch."""

    def __init__(self, optimizer: AdamW, config: Train, steps: int) -> None:
        """steps: number of optimiser steps in the whole training."""
        self._by_step, self._by_epoch = None, None
        match config.schedule:
            case Cosine(warmup=warmup, floor=floor):
                epochs = [config.first_trainable_epoch(group["name"]) - 1 for group in optimizer.param_groups]
                begins = [epoch * steps // config.epochs for epoch in epochs]
                self._by_step = LambdaLR(optimizer, [_cosine(steps - begin, begin, warmup, floor) for begin in begins])
            case Plateau(factor=factor, patience=patience):
                self._by_epoch = ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
            case Constant():
                pass

    def step(self) -> None:
        """Advance by one optimiser step."""
        if self._by_step:
            self._by_step.step()

    def epoch(self, val_loss: float) -> None:
        """Advance by one epoch with this validation loss."""
        if self._by_epoch:
            self._by_epoch.step(val_loss)

    def state_dict(self) -> dict:
        """The part of the state that JSON can hold; the optimiser's groups keep the rates themselves."""
        schedule = self._by_step or self._by_epoch
        if not schedule:
            return {}
        return {key: value for key, value in schedule.state_dict().items() if isinstance(value, int | float)}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state that `state_dict` returned."""
        schedule = self._by_step or self._by_epoch
        if schedule:
            schedule.__dict__.update(state)


def _cosine(steps: int, begin: int, warmup: float, floor: float) -> Callable[[int], float]:
    """The factor of a group's learning rate by step, for a group that is trained for `steps` from step `begin` on.

    Linear warm-up over the fraction `warmup` of its steps, then a cosine down to `floor` (torch's own has one floor for
    all groups).
    """
    rising = round(warmup * steps)

    def factor(step: int) -> float:
        if step < begin:
            return 0.0
        if step < begin + rising:
            return (step - begin + 1) / rising
        progress = min((step - begin - rising) / max(steps - rising, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor
