"""AdamW with groups by tower, depth and decay, the schedules of the recipes, and layers that wait to be trained."""

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
    """AdamW over what is trainable; each group bears the `name` of its tower, or `head`.

    Vectors and scalars (norms, biases, the temperature) are not decayed; the temperature learns at the head's rate.
    With layer decay the rate of a tower is that of its last layer.
    """
    groups: dict[tuple, dict] = {}
    layers = {
        kind: depths(tower) if getattr(config.layer_decay, kind) < 1 else {}
        for kind, tower in (("image", model.image_tower), ("text", model.text_tower))
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind, _, key = name.partition("_tower.")
            kind, share = (kind, getattr(config.layer_decay, kind)) if key else ("head", 1.0)
            layer = layers.get(kind, {})
            below = max(layer.values(), default=0) - layer.get(key, max(layer.values(), default=0))
            decay = getattr(config.weight_decay, kind) if parameter.ndim > 1 else 0.0
            new = {"lr": getattr(config.lr, kind) * share**below, "weight_decay": decay, "name": kind, "params": []}
            groups.setdefault((kind, below, decay), new)["params"].append(parameter)
    # The last layer first, as `learning_rates` wants it.
    ordered = [groups[key] for key in sorted(groups, key=lambda key: (key[0], key[1]))]
    return AdamW(ordered, betas=tuple(config.betas), eps=config.eps, fused=True)


def learning_rates(optimizer: AdamW) -> dict[str, float]:
    """The present rate of each tower's last layer, and of the heads: lr_image, lr_text, lr_head (those that train)."""
    return {f"lr_{group['name']}": group["lr"] for group in reversed(optimizer.param_groups)}


def set_frozen(model: CLIP, freeze: Freeze, epoch: int) -> None:
    """Freeze the layers of trainable towers that learn nothing in `epoch` (from 1).

    A frozen parameter has no gradient, so that AdamW passes over it and nothing is computed for it. Its batch norms
    still follow the data, as in a tower that trains, unless `train.batch_norm` is frozen.
    """
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if not getattr(freeze, name) or tower in model.frozen:
            continue
        layer = depths(tower)
        first = math.ceil(freeze.share(name, epoch) * (max(layer.values()) + 1))
        for key, parameter in tower.named_parameters():
            parameter.requires_grad_(layer.get(key, first) >= first)


class Scheduler:
    """A recipe's schedule: `step` after each optimiser step, `epoch` after each epoch with its validation loss."""

    def __init__(self, optimizer: AdamW, config: Train, steps: int) -> None:
        self._by_step, self._by_epoch = None, None
        match config.schedule:
            case Cosine(warmup=warmup, floor=floor):
                begins = [
                    (config.first_trainable_epoch(group["name"]) - 1) * steps // config.epochs
                    for group in optimizer.param_groups
                ]
                self._by_step = LambdaLR(optimizer, [_cosine(steps - begin, begin, warmup, floor) for begin in begins])
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

    def state_dict(self) -> dict:
        """What JSON can hold; the optimiser's groups keep the rates themselves."""
        schedule = self._by_step or self._by_epoch
        if not schedule:
            return {}
        return {key: value for key, value in schedule.state_dict().items() if isinstance(value, int | float)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict`."""
        schedule = self._by_step or self._by_epoch
        if schedule:
            schedule.__dict__.update(state)


def _cosine(steps: int, begin: int, warmup: float, floor: float) -> Callable[[int], float]:
    """Of a group that learns for `steps` from step `begin` on: step -> the factor of its rate.

    Linear warm-up over the share `warmup` of its steps, then a cosine down to `floor` (torch's has one floor for all).
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
