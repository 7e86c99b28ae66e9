"""One step of training: a batch's embeddings, the loss, its gradient, the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from clipline.config.recipe import Recipe
from clipline.model.clip import CLIP
from clipline.train import batch_norm, grad_cache
from clipline.train.augment import Augmentation
from clipline.train.average import Average
from clipline.train.batches import Batches, Inputs
from clipline.train.distributed.gather import rank, sum_gradients, world_size
from clipline.train.objective import Objective
from clipline.train.optim import Scheduler, build_optimizer, learning_rates, set_frozen
from clipline.train.phases import PhaseTimer
from clipline.train.towers import Towers, chunks, compiled


@dataclass(frozen=True)
class LocalBatch:
    """One process's images and captions of a batch. start: its first image and its first caption in the whole batch."""

    images: np.ndarray
    captions: np.ndarray
    start: tuple[int, int]


class Step:
    """Call it with a batch's image and caption indices. number: steps done. parameters: all that may learn, by name.

    In several processes each takes its share of the batch, and all take the same step. Raises UsageError for settings
    that do not go together with the device.
    """

    def __init__(
        self,
        model: CLIP,
        recipe: Recipe,
        data: Batches,
        steps: int,
        phases: PhaseTimer,
        seed: int,
    ) -> None:
        self.model, self.config, self.data, self.phases = model, recipe.train, data, phases
        self.number = 0
        batch_norm.prepare(model, self.config, data.device)
        self.towers = Towers(model, self.config, data.device)
        self.parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.objective = Objective(model)
        # Where several processes share a batch, messages stand in the middle of it.
        self._loss_of = self.objective.share
        if world_size() == 1:
            self._loss_of = compiled(self._loss_of, self.config, data.device)
        augment = self.config.augment
        self.augment = Augmentation(augment, data.split, seed) if augment else None
        self.optimizer = build_optimizer(model, self.config.optimizer, data.device)
        self.scheduler = Scheduler(self.optimizer, self.config, steps)
        self.average = Average(self.parameters, self.config.ema) if self.config.ema else None
        self._augments = False

    def begin(self, epoch: int) -> None:
        """Make ready for an epoch (from 1): training mode, frozen layers, augmentation off at the end."""
        batch_norm.set_training(self.model, self.config)
        set_frozen(self.model, self.config.freeze, epoch)
        self._augments = (
            self.augment is not None and epoch <= self.config.epochs - self.config.augment.disable_last_epochs
        )
        self.data.changes = self._augments

    def __call__(self, images: np.ndarray, captions: np.ndarray) -> Tensor:
        """Indices int64 [b] and int64 [t] into the split -> the loss, detached, on the device."""
        with self.phases("data"):
            own = self._local(images, captions)
            inputs = self.data.images(own.images), self.data.texts(own.captions)
            if self._augments:
                # Of its rows in the whole batch: what is drawn is the same in however many processes.
                pixels = self.augment.images(inputs[0], own.images, own.start[0], len(images))
                inputs = pixels, self.augment.texts(inputs[1], own.start[1], len(captions))
            owners = self.data.split.caption_image[own.captions]
            ids = [self.data.send(each) for each in (own.images, owners)]
        with self.phases("forward_backward"):
            self.optimizer.zero_grad(set_to_none=True)
            recorded = self.config.compile == "cuda_graphs"
            if recorded:
                torch.compiler.cudagraph_mark_step_begin()
            loss = self._backward(inputs, ids, own)
            if recorded:
                loss = loss.clone()  # the next step of a recorded graph writes where this one's is
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

    def _local(self, images: np.ndarray, captions: np.ndarray) -> LocalBatch:
        """This process's images and their captions."""
        if world_size() == 1:
            return LocalBatch(images, captions, (0, 0))
        bounds = np.linspace(0, len(images), world_size() + 1).astype(int)
        if len(images) == len(captions):  # pairs
            limits = bounds
        else:
            # Captions stand in the order of their images.
            owner = np.argsort(images)[np.searchsorted(np.sort(images), self.data.split.caption_image[captions])]
            limits = np.searchsorted(owner, bounds)
        i, j = (slice(*each[rank() : rank() + 2]) for each in (bounds, limits))
        return LocalBatch(images[i], captions[j], (int(i.start), int(j.start)))

    def _backward(self, inputs: tuple[Tensor, Inputs], ids: list[Tensor], own: LocalBatch) -> Tensor:
        """Add this process's part of the gradient. Returns its part of the loss, detached."""

        def loss_of(image_BD: Tensor, text_TD: Tensor) -> Tensor:
            return self._loss_of(image_BD, text_TD, *ids, own.start)

        towers = self.towers
        if size := self.config.micro_batch_size:
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
        # In the order in which the optimiser counts them. Fused AdamW takes moments to lie in memory as weights do.
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, key = rest.split(".")
                moments = state["state"].setdefault(int(index), {})
                like = parameters[int(index)]
                moments[key] = value if key == "step" else torch.empty_like(like, requires_grad=False).copy_(value)
            elif kind == "average":
                self.average.weights[rest].copy_(value)
        self.optimizer.load_state_dict(state)
        for group, rate in zip(self.optimizer.param_groups, facts["rates"], strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(facts["schedule"])
        if self.augment:
            self.augment.generator.set_state(tensors["augment"])
