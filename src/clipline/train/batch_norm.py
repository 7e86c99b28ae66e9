"""Batch norm of trainable towers: the setting `train.batch_norm`. Frozen towers keep theirs in evaluation mode.

`batch` normalises by what is computed at once: the batch, a micro-batch (`grad_cache`), or one process's part of the
batch. Micro-batches and processes therefore change embeddings and loss a little, as smaller batches do. Running
statistics follow each process's own part, and rank 0's are validated and kept. `frozen` normalises by the running
statistics that the tower came with, while weight and bias are still trained. An image's embedding then depends on no
other image: batches, micro-batches and processes change nothing. `synchronised` normalises by the whole batch of all
GPUs (MegDet, arXiv 1711.07240), as one process would.
"""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from clipline.config.training import Train
from clipline.errors import UsageError
from clipline.model.clip import CLIP
from clipline.train.distributed.gather import world_size

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def prepare(model: CLIP, config: Train, device: torch.device) -> None:
    """Replace batch norms of trainable towers by synchronised ones where the recipe asks for it.

    Call it before anything holds the towers' inner modules; parameters, buffers and their names stay. Raises UsageError
    on the CPU, where torch has no synchronised batch norm.
    """
    if config.batch_norm != "synchronised":
        return
    if device.type != "cuda":
        raise UsageError(
            "train.batch_norm: synchronised works between GPUs, and this training is on the CPU. "
            "Fix: train.batch_norm: frozen (of pretrained towers), or batch"
        )
    if world_size() > 1:
        for tower in _trainable(model):
            convert_sync_batchnorm(tower)


def set_training(model: CLIP, config: Train) -> None:
    """Switch to training mode, except for frozen towers and for batch norms that keep their statistics."""
    model.train()
    if config.batch_norm == "frozen":
        for tower in _trainable(model):
            for module in tower.modules():
                if isinstance(module, KINDS):
                    module.eval()


def _trainable(model: CLIP) -> list[nn.Module]:
    return [tower for tower in (model.image_tower, model.text_tower) if tower not in model.frozen]
