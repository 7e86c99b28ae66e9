"""What batch norm does in towers that train: `train.batch_norm` of a recipe. Frozen towers keep theirs as they came.

`batch`: it normalises by what is computed at once: the batch, a chunk of it (`grad_cache`), or a process's own share;
in GradCache's first pass too. So chunks and processes change embeddings and loss a little, as smaller batches do.
Each process's running statistics follow its own share, and the first one's are validated, kept and shipped.
`frozen`: it normalises by the running statistics that the tower came with, and its weight and bias still learn. An
image's embedding then depends on no other image: batches, chunks and processes change nothing.
`synchronised`: by the whole batch of all GPUs (MegDet, arXiv 1711.07240), as one process would with that batch.
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
    """Put batch norms that wait for each other into the trainable towers, where the recipe asks for them.

    Call it before anything holds the towers' inner modules; parameters, buffers and their names stay. Raises UsageError
    on the CPU, where torch has none.
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
    """Training mode, but for frozen towers and for batch norms that keep their statistics."""
    model.train()
    if config.batch_norm == "frozen":
        for tower in _trainable(model):
            for module in tower.modules():
                if isinstance(module, KINDS):
                    module.eval()


def _trainable(model: CLIP) -> list[nn.Module]:
    return [tower for tower in (model.image_tower, model.text_tower) if tower not in model.frozen]
