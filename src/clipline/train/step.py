"""One training step: embeddings of a batch, the loss, its gradient, the optimiser."""

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
from clipline.train.batches import Batches, Inputs, micro_batches
from clipline.train.distributed.gather import rank, sum_gradients, world_size
from clipline.train.objective import Objective
from clipline.train.optim import Scheduler, build_optimizer, set_frozen
from clipline.train.phases import PhaseTimer
from clipline.train.towers import Towers, compiled


@dataclass(frozen=True)
class LocalBatch:
    """One process's part of a batch: image rows int64 [b] and caption rows int64 [t] of the split.

    start: the positions of its first image and its first caption in the whole batch.
    """

    images: np.ndarray
    captions: np.ndarray
    start: tuple[int, int]


class Step:
    """Callable: takes one step with a batch's image and caption rows.

    Of several processes each takes its part of the batch, and all make the same step. number: steps done. parameters:
    all that may be trained, by name. Raises UsageError for settings that the device does not support.
    """

    def __init__(self, model: CLIP, recipe: Recipe, data: Batches, steps: int, phases: PhaseTimer, seed: int) -> None:
        """steps: number of steps in the whole training. seed: of the augmentation."""
        self.model, self.config, self.data, self.phases = model, recipe.train, data, phases
        self.number = 0
        batch_norm.prepare(model, self.config, data.device)
        self.towers = Towers(model, self.config, data.device)
        self.parameters = {name: param for name, param in model.named_parameters() if param.requires_grad}
        self.objective = Objective(model)
        self._loss = self.objective.local_part
        # With several processes it holds collectives, which are not compiled.
        if world_size() == 1:
            self._loss = compiled(self._loss, self.config, data.device)
        self.augment = Augmentation(self.config.augment, data.split, seed) if self.config.augment else None
        self.optimizer = build_optimizer(model, self.config.optimizer, data.device)
        self.scheduler = Scheduler(self.optimizer, self.config, steps)
        self.average = Average(self.parameters, self.config.ema) if self.config.ema else None
        self._augments = False

    def begin(self, epoch: int) -> None:
        """Prepare for an epoch (from 1): training mode, frozen layers, and whether the epoch augments."""
        batch_norm.set_training(self.model, self.config)
        set_frozen(self.model, self.config.freeze, epoch)
        augment = self.config.augment
        self._augments = augment is not None and epoch <= self.config.epochs - augment.disable_last_epochs
        self.data.all_views = self._augments

    def __call__(self, images: np.ndarray, captions: np.ndarray) -> Tensor:
        """Rows of the split, int64 [b] and int64 [t] -> this process's part of the loss, detached, on the device."""
        with self.phases("data"):
            local = self._local(images, captions)
            inputs = self.data.images(local.images), self.data.texts(local.captions)
            if self._augments:
                pixels = self.augment.images(inputs[0], local.images, local.start[0], len(images))
                inputs = pixels, self.augment.texts(inputs[1], local.start[1], len(captions))
            owners = self.data.split.caption_image[local.captions]
            ids = [self.data.send(rows) for rows in (local.images, owners)]
        with self.phases("forward_backward"):
            self.optimizer.zero_grad(set_to_none=True)
            cuda_graphs = self.config.compile == "cuda_graphs"
            if cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            loss = self._backward(inputs, ids, local)
            if cuda_graphs:
                loss = loss.clone()  # the next replay of the graph overwrites its outputs
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

    def _local(self, images: np.ndarray, captions: np.ndarray) -> LocalBatch:
        """This process's images and their captions."""
        if world_size() == 1:
            return LocalBatch(images, captions, (0, 0))
        image_bounds = np.linspace(0, len(images), world_size() + 1).astype(int)
        if len(images) == len(captions):  # pairs
            caption_bounds = image_bounds
        else:
            # Captions are in the order of their images.
            owner = np.argsort(images)[np.searchsorted(np.sort(images), self.data.split.caption_image[captions])]
            caption_bounds = np.searchsorted(owner, image_bounds)
        (i, i_end), (c, c_end) = (map(int, bounds[rank() : rank() + 2]) for bounds in (image_bounds, caption_bounds))
        return LocalBatch(images[i:i_end], captions[c:c_end], (i, c))

    def _backward(self, inputs: tuple[Tensor, Inputs], ids: list[Tensor], local: LocalBatch) -> Tensor:
        """Add this process's part of the gradient. Returns its part of the loss, detached."""

        def loss_of(image_BD: Tensor, text_TD: Tensor) -> Tensor:
            return self._loss(image_BD, text_TD, *ids, local.start)

        image, text = self.towers.image, self.towers.text
        if size := self.config.micro_batch_size:
            pixels, texts = (micro_batches(some_inputs, size) for some_inputs in inputs)
            return grad_cache.backward(pixels, texts, image, text, loss_of, model=self.model)
        loss = loss_of(image(inputs[0]), text(inputs[1]))
        loss.backward()
        return loss.detach()

    # ------------------------------------------------------------ state for a restart

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments, the averaged weights, and the state of the augmentation's generator."""
        tensors = {
            f"optimizer.{index}.{key}": value
            for index, moments in self.optimizer.state_dict()["state"].items()
            for key, value in moments.items()
        }
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.weights.items()}
        if self.augment:
            tensors["augment"] = self.augment.generator.get_state()
        return tensors

    def metadata(self) -> dict[str, Any]:
        """Counters and learning rates."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return {"number": self.number, "rates": rates, "schedule": self.scheduler.state_dict()}

    def load(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Restore what `tensors` and `metadata` returned."""
        self.number = metadata["number"]
        state = self.optimizer.state_dict()
        # In the optimiser's own order. Fused AdamW needs moments in the memory format of their parameters.
        parameters = [param for group in self.optimizer.param_groups for param in group["params"]]
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, key = rest.split(".")
                moments = state["state"].setdefault(int(index), {})
                param = parameters[int(index)]
                moments[key] = value if key == "step" else torch.empty_like(param, requires_grad=False).copy_(value)
            elif kind == "average":
                self.average.weights[rest].copy_(value)
        self.optimizer.load_state_dict(state)
        for group, rate in zip(self.optimizer.param_groups, metadata["rates"], strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(metadata["schedule"])
        if self.augment:
            self.augment.generator.set_state(tensors["augment"])
