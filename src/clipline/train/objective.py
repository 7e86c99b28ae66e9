"""The recipe's loss of the embeddings that towers and heads give."""

from __future__ import annotations

import torch
from torch import Tensor

from clipline.losses import Batch, build_loss
from clipline.model.clip import CLIP
from clipline.train.distributed.gather import gather


class Objective:
    """The loss of `model`'s recipe; with several heads, the mean of the losses of each."""

    def __init__(self, model: CLIP) -> None:
        self.model = model
        self.loss = build_loss(model.recipe.loss)

    def local_part(
        self, image_BD: Tensor, text_TD: Tensor, image_id_B: Tensor, text_id_T: Tensor, start: tuple[int, int]
    ) -> Tensor:
        """This process's part of the whole batch's loss, as in `losses`.

        start: the positions of its first image and its first text in the whole batch.
        """
        local = Batch(image_BD, text_TD, image_id_B, text_id_T, *start)
        return self._mean_over_heads(local, gather(local))

    def pairs(self, image_BD: Tensor, text_BD: Tensor) -> Tensor:
        """The loss of B pairs that are all in this process."""
        ids = torch.arange(len(image_BD), device=image_BD.device)
        batch = Batch(image_BD, text_BD, ids, ids)
        return self._mean_over_heads(batch, batch)

    def _mean_over_heads(self, local: Batch, full: Batch) -> Tensor:
        scale, bias = self.model.temperature(), self.model.logit_bias
        local_heads = self._heads(local)
        # The same objects in one process: the losses then compute each product once.
        full_heads = local_heads if full is local else self._heads(full)
        losses = [self.loss(one, all_rows, scale, bias) for one, all_rows in zip(local_heads, full_heads, strict=True)]
        return torch.stack(losses).mean()

    def _heads(self, batch: Batch) -> list[Batch]:
        return batch.heads(self.model.recipe.head.num_heads, normalize=self.model.recipe.train.normalize)
