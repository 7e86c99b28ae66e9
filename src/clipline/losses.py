"""Contrastive losses: embeddings of B pairs -> a scalar.

Shape suffixes: B batch, D embedding. Row i of both is pair i. `scale` is 1 / tau.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clipline.config.recipe import InfoNCELoss, SoftTargetLoss

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def infonce(image_BD: Tensor, text_BD: Tensor, scale: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Symmetric cross-entropy of each row against its own pair (arXiv 2103.00020, figure 3)."""
    logits_BB = scale * image_BD @ text_BD.T
    labels_B = torch.arange(len(logits_BB), device=logits_BB.device)
    image_loss = F.cross_entropy(logits_BB, labels_B, label_smoothing=label_smoothing)
    text_loss = F.cross_entropy(logits_BB.T, labels_B, label_smoothing=label_smoothing)
    return (image_loss + text_loss) / 2


def soft_target(
    image_BD: Tensor,
    text_BD: Tensor,
    scale: Tensor,
    *,
    detach_targets: bool = False,
    target_scale: str = "multiply",
) -> Tensor:
    """Cross-entropy against soft targets from the similarities within each modality.

    logits = T I' / tau; targets = row-softmax of the mean of I I' and T T', times tau (`multiply`, as in
    moein-shariatnia/OpenAI-CLIP) or over tau (`divide`, as in the Keras example `nl_image_search`).
    """
    logits_BB = scale * text_BD @ image_BD.T
    similarity_BB = (image_BD @ image_BD.T + text_BD @ text_BD.T) / 2
    factor = scale if target_scale == "divide" else 1 / scale
    targets_BB = F.softmax(similarity_BB * factor, dim=-1)
    if detach_targets:
        targets_BB = targets_BB.detach()
    text_loss = F.cross_entropy(logits_BB, targets_BB)
    # The targets are the row-softmax; seen from the images, its columns (they need not sum to one).
    image_loss = F.cross_entropy(logits_BB.T, targets_BB.T)
    return (image_loss + text_loss) / 2


def build_loss(config: InfoNCELoss | SoftTargetLoss) -> LossFunction:
    """The loss that a recipe names, as a function of image [B, D], text [B, D] and scale."""
    options = config.model_dump(exclude={"kind"})
    function = {"infonce": infonce, "soft_target": soft_target}[config.kind]
    return lambda image_BD, text_BD, scale: function(image_BD, text_BD, scale, **options)
