"""Figures of a model on the validation split: its loss, and retrieval over all captions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipline import retrieval
from clipline.train.batches import Batches
from clipline.train.features import encode_images, encode_texts
from clipline.train.objective import Objective
from clipline.train.towers import Towers


@torch.inference_mode()
def validate(towers: Towers, data: Batches, objective: Objective, batch_size: int) -> dict[str, float]:
    """val_loss, of each image with its first caption in batches of batch_size, and val_i2t_r1 to val_t2i_r10."""
    towers.model.eval()
    image_ND, text_CD = _embed(towers, data)
    owner = data.split.caption_image
    figures = retrieval.evaluate(image_ND.cpu().numpy(), text_CD.cpu().numpy(), owner)
    recalls = {f"val_{name}": value for name, value in figures.items() if "_r" in name and "median" not in name}
    _, first = np.unique(owner, return_index=True)
    pairs_ND = text_CD[torch.from_numpy(first).to(data.device)]
    parts = zip(image_ND.split(batch_size), pairs_ND.split(batch_size), strict=True)
    losses = [objective.pairs(images, texts) * len(images) for images, texts in parts]
    return {"val_loss": (torch.stack(losses).sum() / len(image_ND)).item(), **recalls}


def _embed(towers: Towers, data: Batches) -> tuple[Tensor, Tensor]:
    """All images of the split [n, D] and all captions [c, D], float32 on the device, not normalised."""
    split, device = data.split, data.device
    if "image" in data.features:
        image_ND = towers.image(data.features["image"])
    else:
        image_ND = torch.from_numpy(encode_images(towers.image, split, device, "validation images"))
    if "text" in data.features:
        text_CD = towers.text(data.features["text"])
    else:
        array = encode_texts(lambda *inputs: towers.text(inputs), split, device, "validation captions")
        text_CD = torch.from_numpy(array)
    return image_ND.to(device), text_CD.to(device)
