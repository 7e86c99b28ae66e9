"""What a step makes small: the recipe's loss of embeddings, as the towers and heads give them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipline.losses import Batch, build_loss
from clipline.model.clip import CLIP
from clipline.train.distributed.gather import gather


class Objective:
    """The loss of `model`'s recipe. Where the head has copies, the mean of the losses of each."""

    def __init__(self, model: CLIP) -> None:
        self.model = model
        self.loss = build_loss(model.recipe.loss)

    def share(
        self, image_BD: Tensor, text_TD: Tensor, image_id_B: Tensor, text_id_T: Tensor, start: tuple[int, int]
    ) -> Tensor:
        """This process's part of the whole batch's loss. start: where its images and its texts stand in that."""
        return self._of(Batch(image_BD, text_TD, image_id_B, text_id_T, *start))

    def pairs(self, image_BD: Tensor, text_BD: Tensor) -> Tensor:
        """The loss of B pairs that are all here."""
        ids = torch.arange(len(image_BD), device=image_BD.device)
        own = Batch(image_BD, text_BD, ids, ids)
        return self._of(own, alone=True)

    def _of(self, own: Batch, *, alone: bool = False) -> Tensor:
        everyone = own if alone else gather(own)
        scale, bias = self.model.temperature(), self.model.logit_bias
        mine = self._copies(own)
        # The very same batches where there is one process: the losses then compute each product once.
        theirs = mine if everyone is own else self._copies(everyone)
        losses = [self.loss(one, other, scale, bias) for one, other in zip(mine, theirs, strict=True)]
        return torch.stack(losses).mean()

    def _copies(self, batch: Batch) -> list[Batch]:
        """The share of the embeddings that each copy of the head gave, L2-normalised if the recipe says so."""
        recipe = self.model.recipe
        parts = [each.chunk(recipe.head.num_heads, dim=1) for each in (batch.image_BD, batch.text_TD)]
        if recipe.train.normalize:
            parts = [[F.normalize(part, dim=-1) for part in each] for each in parts]
        rest = (batch.image_id_B, batch.text_id_T, batch.image_start, batch.text_start)
        return [Batch(image, text, *rest) for image, text in zip(*parts, strict=True)]
