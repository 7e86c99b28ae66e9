"""One step of training: a batch's embeddings, the loss, its gradient, the optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from clipline.config.recipe import Recipe
from clipline.model.clip import CLIP
from clipline.train import grad_cache
from clipline.train.augment import Augmentation
from clipline.train.average import Average
from clipline.train.batches import Batches, Inputs
from clipline.train.gather import rank, sum_gradients, world_size
from clipline.train.objective import Objective
from clipline.train.optim import Scheduler, build_optimizer, learning_rates, set_frozen
from clipline.train.phases import Phases
from clipline.train.towers import Towers, chunks


class Step:
    """Call it with a batch's image and caption indices. number: steps done. parameters: all that may learn, by name.

    In several processes each takes its share of the batch, and all take the same step.
    """

    def __init__(self, model: CLIP, recipe: Recipe, data: Batches, steps: int, phases: Phases, seed: int) -> None:
        self.model, self.config, self.data, self.phases = model, recipe.train, data, phases
        self.number = 0
        self.parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.towers = Towers(model, self.config, data.device)
        self.objective = Objective(model)
        self.augment = Augmentation(self.config.augment, data.split, seed) if self.config.augment else None
        self.optimizer = build_optimizer(model, self.config.optimizer, data.device)
        self.scheduler = Scheduler(self.optimizer, self.config, steps)
        self.average = Average(self.parameters, self.config.ema) if self.config.ema else None
        self._augments = False

    def begin(self, epoch: int) -> None:
        """Make ready for an epoch (from 1): training mode, frozen layers, augmentation off at the end."""
        self.model.train()
        set_frozen(self.model, self.config.freeze, epoch)
        self._augments = self.augment is not None and epoch <= self.config.epochs - self.config.augment.off_last

    def __call__(self, images: np.ndarray, captions: np.ndarray) -> Tensor:
        """Indices int64 [b] and int64 [t] into the split -> the loss, detached, on the device."""
        with self.phases("data"):
            own, start = self._share(images, captions)
            inputs = self.data.images(own[0]), self.data.texts(own[1])
            if self._augments:
                # Of its rows in the whole batch: what is drawn is the same in however many processes.
                pixels = self.augment.images(inputs[0], own[0], start[0], len(images))
                inputs = pixels, self.augment.texts(inputs[1], start[1], len(captions))
            owners = self.data.split.caption_image[own[1]]
            ids = [torch.from_numpy(each).to(self.data.device) for each in (own[0], owners)]
        with self.phases("forward_backward"):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._backward(inputs, ids, start)
            sum_gradients(self.parameters.values())
        with self.phases("optimizer"):
            if self.config.grad_clip:
                clip_grad_norm_(list(self.parameters.values()), self.config.grad_clip)
            self.optimizer.step()
            self.scheduler.step()
            self.model.temperature.clamp_()
            self.number += 1
            if self.average:
                self.average.update(self.number)
        return loss

    def learning_rates(self) -> dict[str, float]:
        """See `optim.learning_rates`."""
        return learning_rates(self.optimizer)

    def _share(self, images: np.ndarray, captions: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, int]]:
        """This process's images and their captions, and where they stand in the whole batch."""
        if world_size() == 1:
            return (images, captions), (0, 0)
        bounds = np.linspace(0, len(images), world_size() + 1).astype(int)
        if len(images) == len(captions):  # pairs
            limits = bounds
        else:
            # Captions stand in the order of their images.
            owner = np.argsort(images)[np.searchsorted(np.sort(images), self.data.split.caption_image[captions])]
            limits = np.searchsorted(owner, bounds)
        i, j = (slice(*each[rank() : rank() + 2]) for each in (bounds, limits))
        return (images[i], captions[j]), (int(i.start), int(j.start))

    def _backward(self, inputs: tuple[Tensor, Inputs], ids: list[Tensor], start: tuple[int, int]) -> Tensor:
        """Add this process's part of the gradient. Returns its part of the loss, detached."""

        def loss_of(image_BD: Tensor, text_TD: Tensor) -> Tensor:
            return self.objective.share(image_BD, text_TD, *ids, start)

        towers = self.towers
        if size := self.config.chunk:
            pixels, texts = (chunks(each, size) for each in inputs)
            return grad_cache.backward(pixels, texts, towers.image, towers.text, loss_of, model=self.model)
        loss = loss_of(towers.image(inputs[0]), towers.text(inputs[1]))
        loss.backward()
        return loss.detach()

    # ------------------------------------------------------------ what is kept for a restart

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments, the averages, and what augmentation draws from."""
        found = {
            f"optimizer.{index}.{key}": value
            for index, moments in self.optimizer.state_dict()["state"].items()
            for key, value in moments.items()
        }
        if self.average:
            found |= {f"average.{name}": value for name, value in self.average.weights.items()}
        if self.augment:
            found["augment"] = self.augment.generator.get_state()
        return found

    def facts(self) -> dict[str, Any]:
        """Counters and rates."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return {"number": self.number, "rates": rates, "schedule": self.scheduler.state_dict()}

    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from `tensors` and `facts`."""
        self.number = facts["number"]
        state = self.optimizer.state_dict()
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, key = rest.split(".")
                state["state"].setdefault(int(index), {})[key] = value
            elif kind == "average":
                self.average.weights[rest].copy_(value)
        self.optimizer.load_state_dict(state)
        for group, rate in zip(self.optimizer.param_groups, facts["rates"], strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(facts["schedule"])
        if self.augment:
            self.augment.generator.set_state(tensors["augment"])
