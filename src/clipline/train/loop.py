"""The training loop: one process, CPU or one CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipline import retrieval
from clipline.config.recipe import Recipe
from clipline.data.prepared import Prepared, Split
from clipline.errors import CliplineError
from clipline.losses import build_loss
from clipline.model.clip import CLIP, build_model
from clipline.model.text_tower import trim
from clipline.progress import Bar
from clipline.train.features import cached_features, encode_images, encode_texts
from clipline.train.optim import Scheduler, build_optimizer, learning_rates
from clipline.train.samples import Sampler

# Each look at a loss waits for the GPU: look at this many at once.
CHECK_EVERY = 20
Row = dict[str, float]


class Batches:
    """One split on one device: live inputs, or the cached features of frozen towers, for chosen samples."""

    def __init__(self, model: CLIP, split: Split, features: dict[str, Tensor], device: torch.device) -> None:
        self.model, self.split, self.features, self.device = model, split, features, device

    def embed_images(self, rows: np.ndarray) -> Tensor:
        """Indices int64 [b] -> float [b, D], not normalised."""
        if "image" in self.features:
            return self.model.image_head(self.features["image"][torch.from_numpy(rows).to(self.device)])
        pixels = torch.from_numpy(self.split.images[self.split.image_rows[rows]])
        return self.model.encode_image(pixels.to(self.device, non_blocking=True))

    def embed_texts(self, rows: np.ndarray) -> Tensor:
        """Indices int64 [b] -> float [b, D], not normalised."""
        if "text" in self.features:
            return self.model.text_head(self.features["text"][torch.from_numpy(rows).to(self.device)])
        ids, mask = trim(torch.from_numpy(self.split.tokens[rows]), torch.from_numpy(self.split.lengths[rows]))
        return self.model.encode_text(ids.to(self.device), mask.to(self.device))

    def embed_all(self) -> tuple[Tensor, Tensor]:
        """The whole split: images [n, D] and captions [c, D], float32 on the device, not normalised."""
        found = []
        for kind, encode in (("image", encode_images), ("text", encode_texts)):
            if kind in self.features:
                head = self.model.image_head if kind == "image" else self.model.text_head
                found.append(head(self.features[kind]).float())
            else:
                whole = self.model.encode_image if kind == "image" else self.model.encode_text
                out = encode(whole, self.split, self.device, f"validation {kind}s")
                found.append(torch.from_numpy(out).to(self.device))
        return found[0], found[1]


class Trainer:
    """Trains one model; `fit` gives the best epoch's weights back in `model`."""

    def __init__(self, recipe: Recipe, data: Prepared, *, seed: int, device: torch.device, cache: Path) -> None:
        torch.manual_seed(seed)
        self.recipe, self.config, self.device = recipe, recipe.train, device
        self.model = build_model(recipe, data.vocab_size).to(device)
        train, val = data.split("train"), data.split("val")
        self.train, self.val = (
            Batches(self.model, split, cached_features(self.model, split, data.fingerprint, cache, device), device)
            for split in (train, val)
        )
        self.sampler = Sampler(train, self.config.captions, self.config.batch_size, seed)
        self.loss = build_loss(recipe.loss)
        self.optimizer = build_optimizer(self.model, self.config.optimizer, device)
        self.scheduler = Scheduler(self.optimizer, self.config, self.sampler.steps * self.config.epochs)
        self.step = 0
        self.best: Row = {}
        self._best_state: dict[str, Tensor] = {}

    def fit(self, on_epoch: Callable[[Row], None]) -> Row:
        """Train to the end, or until early stopping; `on_epoch` gets each epoch's row (see reports/train.csv).

        Returns the best epoch's row, whose weights `model` then holds. Raises CliplineError where the loss is
        not finite.
        """
        per_epoch = min(self.sampler.steps * self.config.batch_size, self.sampler.samples)
        with Bar("training", per_epoch * self.config.epochs, "samples") as bar:
            for epoch in range(1, self.config.epochs + 1):
                row = self._epoch(epoch, bar)
                on_epoch(row)
                if not self.best or self._score(row) > self._score(self.best):
                    self.best = row
                    self._best_state = {k: v.detach().to("cpu", copy=True) for k, v in self.model.state_dict().items()}
                if self.config.early_stop and epoch - self.best["epoch"] >= self.config.early_stop:
                    break
        self.model.load_state_dict(self._best_state)
        return self.best

    def _score(self, row: Row) -> float:
        if self.config.select == "val_loss":
            return -row["val_loss"]
        return row["val_i2t_r1"] + row["val_t2i_r1"]

    def _epoch(self, epoch: int, bar: Bar) -> Row:
        start, losses, rates = time.perf_counter(), [], learning_rates(self.optimizer)
        self.model.train()
        note = f"epoch {epoch}/{self.config.epochs}"
        if self.best:
            note += f", best R@1 i2t {self.best['val_i2t_r1']:.1f} t2i {self.best['val_t2i_r1']:.1f}"
        for images, captions in self.sampler.epoch():
            losses.append(self._step(images, captions))
            if len(losses) % CHECK_EVERY == 0:
                self._check_finite(losses[-CHECK_EVERY:])
            bar.advance(len(images), note)
        self._check_finite(losses[-CHECK_EVERY:])
        seconds = time.perf_counter() - start
        row = {
            "step": self.step,
            "epoch": epoch,
            "train_loss": torch.stack(losses).mean().item(),
            **self._validate(),
            **rates,
            "temperature": 1 / self.model.temperature().item(),
            "images_per_second": len(losses) * min(self.config.batch_size, self.sampler.samples) / seconds,
        }
        self.scheduler.epoch(row["val_loss"])
        return {
            key: round(value, 6) if isinstance(value, float) and key[:3] != "lr_" else value
            for key, value in row.items()
        }

    def _step(self, images: np.ndarray, captions: np.ndarray) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            image_BD, text_BD = self.train.embed_images(images), self.train.embed_texts(captions)
        loss = self._loss(image_BD.float(), text_BD.float())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.model.temperature.clamp_()
        self.step += 1
        return loss.detach()

    def _loss(self, image_BD: Tensor, text_BD: Tensor) -> Tensor:
        if self.config.normalize:
            image_BD, text_BD = F.normalize(image_BD, dim=-1), F.normalize(text_BD, dim=-1)
        return self.loss(image_BD, text_BD, self.model.temperature())

    def _check_finite(self, losses: list[Tensor]) -> None:
        bad = (~torch.isfinite(torch.stack(losses))).nonzero()
        if len(bad):
            step = self.step - len(losses) + int(bad[0]) + 1
            raise CliplineError(
                f"the loss is not finite at step {step}. Mend: a lower train.optimizer.lr, train.grad_clip: 1.0, "
                f"or train.normalize: true"
            )

    @torch.inference_mode()
    def _validate(self) -> Row:
        """Loss of each image with its first caption, in batches as in training; retrieval over all captions."""
        self.model.eval()
        image_ND, text_CD = self.val.embed_all()
        text_image = self.val.split.caption_image
        _, first = np.unique(text_image, return_index=True)
        pairs = text_CD[torch.from_numpy(first).to(self.device)]
        size = self.config.batch_size
        losses = [self._loss(image_ND[i : i + size], pairs[i : i + size]) for i in range(0, len(pairs), size)]
        weights = torch.tensor(
            [float(len(image_ND[i : i + size])) for i in range(0, len(pairs), size)], device=self.device
        )
        figures = retrieval.evaluate(image_ND.cpu().numpy(), text_CD.cpu().numpy(), text_image)
        recalls = {f"val_{name}": value for name, value in figures.items() if "_r" in name and "median" not in name}
        return {"val_loss": ((torch.stack(losses) * weights).sum() / weights.sum()).item(), **recalls}
