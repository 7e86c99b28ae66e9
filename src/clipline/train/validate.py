"""How good a model is on the validation split: its loss, and retrieval over all captions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipline import retrieval
from clipline.losses import Batch
from clipline.train.batches import Batches
from clipline.train.features import encode_images, encode_texts
from clipline.train.towers import Towers

Row = dict[str, float]


@torch.inference_mode()
def validate(
    towers: Towers, data: Batches, loss: Callable[[Batch], Tensor], batch_size: int, *, normalize: bool
) -> Row:
    """val_loss, of each image with its first caption in batches as in training, and val_i2t_r1 to val_t2i_r10.

    loss: of a whole batch.
    """
    towers.model.eval()
    image_ND, text_CD = _embed(towers, data)
    owner = data.split.caption_image
    figures = retrieval.evaluate(image_ND.cpu().numpy(), text_CD.cpu().numpy(), owner)
    recalls = {f"val_{name}": value for name, value in figures.items() if "_r" in name and "median" not in name}
    _, first = np.unique(owner, return_index=True)
    pairs_ND = text_CD[torch.from_numpy(first).to(data.device)]
    if normalize:
        image_ND, pairs_ND = F.normalize(image_ND, dim=-1), F.normalize(pairs_ND, dim=-1)
    ids_N = torch.arange(len(image_ND), device=data.device)
    parts = zip(*(each.split(batch_size) for each in (image_ND, pairs_ND, ids_N)), strict=True)
    losses = [loss(Batch(images, texts, ids, ids)) * len(ids) for images, texts, ids in parts]
    return {"val_loss": (torch.stack(losses).sum() / len(image_ND)).item(), **recalls}


def _embed(towers: Towers, data: Batches) -> tuple[Tensor, Tensor]:
    """The whole split: images [n, D] and captions [c, D], float32 on the device, not normalised."""
    if "image" in data.features:
        image_ND = towers.image(data.features["image"])
    else:
        image_ND = torch.from_numpy(encode_images(towers.image, data.split, data.device, "validation images"))
    if "text" in data.features:
        text_CD = towers.text(data.features["text"])
    else:
        found = encode_texts(lambda *inputs: towers.text(inputs), data.split, data.device, "validation captions")
        text_CD = torch.from_numpy(found)
    return image_ND.to(data.device), text_CD.to(data.device)
