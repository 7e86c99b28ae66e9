"""Contrastive losses of a batch that one process holds, or that several processes share.

Shape suffixes: B images and T texts of the whole batch, b and t those of this process, D embedding, R rows, C columns.
`scale` is 1 / tau. A loss takes this process's rows (`local`) and the rows of all processes (`full`) and returns the
part of the whole batch's loss that belongs to the local rows: the parts of all processes add up to the loss of the
whole batch, and so do their gradients (see `train.distributed.gather`). In one process `local` is `full`, and the part
is the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from clipline.config.loss import Loss


@dataclass(frozen=True)
class Batch:
    """Embeddings of images, float32 [B, D], and of texts, float32 [T, D], and which of them belong together.

    image_id_B: int64, the image's index in the split. text_id_T: int64, the index of the text's image: text t is a
    positive of image b if and only if their ids are equal.
    image_start, text_start: the position of the first row in the whole batch.
    """

    image_BD: Tensor
    text_TD: Tensor
    image_id_B: Tensor
    text_id_T: Tensor
    image_start: int = 0
    text_start: int = 0

    def heads(self, num_heads: int, *, normalize: bool) -> list[Batch]:
        """The batch as each head embeds it, with D / num_heads dimensions, L2-normalised if `normalize`."""
        images, texts = (embedding.chunk(num_heads, dim=1) for embedding in (self.image_BD, self.text_TD))
        if normalize:
            images, texts = ([F.normalize(part, dim=-1) for part in parts] for parts in (images, texts))
        rest = (self.image_id_B, self.text_id_T, self.image_start, self.text_start)
        return [Batch(image, text, *rest) for image, text in zip(images, texts, strict=True)]


# local, full, scale, bias -> scalar
LossFunction = Callable[[Batch, Batch, Tensor, Tensor | None], Tensor]


def infonce(
    local: Batch,
    full: Batch,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    hard_negatives: float | None = None,
) -> Tensor:
    """Symmetric cross-entropy of each row against its own pair (arXiv 2103.00020, figure 3).

    Row i of images and of texts is pair i; raises ValueError if their numbers differ. As in CLIP, all other rows are
    negatives, also those of the same image if a batch has it twice. With `hard_negatives` those are excluded, and the
    negatives are weighted (`_weigh`). `bias` is ignored: a softmax does not depend on it.
    """
    _require_pairs(local, full)
    pair_b = torch.arange(len(local.image_BD), device=local.image_BD.device) + local.image_start
    sides = _logits(local, full, scale)
    if hard_negatives is None:
        parts = [F.cross_entropy(logits, pair_b, reduction="sum", label_smoothing=label_smoothing) for logits in sides]
    else:
        same_bB = local.image_id_B[:, None] == full.image_id_B
        pair_bB = pair_b[:, None] == torch.arange(len(full.image_BD), device=pair_b.device)
        parts = [
            _cross_entropy(_weigh(logits, same_bB, hard_negatives), pair_bB, label_smoothing, same_bB & ~pair_bB)
            for logits in sides
        ]
    return sum(parts) / (2 * len(full.image_BD))


def soft_target(
    local: Batch,
    full: Batch,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    detach_targets: bool = False,
    target_scale: str = "multiply",
) -> Tensor:
    """Cross-entropy against soft targets from the similarities within each modality.

    logits = T I' / tau; targets = row-softmax of the mean of I I' and T T', times tau (`multiply`, as in
    moein-shariatnia/OpenAI-CLIP) or over tau (`divide`, as in the Keras example `nl_image_search`). Row i of images
    and of texts is pair i; raises ValueError if their numbers differ. `bias` is ignored.

    An image's target is a column of the row-softmax, so that each process computes the targets of all rows, [B, B].
    """
    _require_pairs(local, full)
    image_logits_bB, text_logits_bB = _logits(local, full, scale)
    similarity_BB = (full.image_BD @ full.image_BD.T + full.text_TD @ full.text_TD.T) / 2
    factor = scale if target_scale == "divide" else 1 / scale
    targets_BB = F.softmax(similarity_BB * factor, dim=-1)
    if detach_targets:
        targets_BB = targets_BB.detach()
    rows = slice(local.text_start, local.text_start + len(local.text_TD))
    text_loss = F.cross_entropy(text_logits_bB, targets_BB[rows], reduction="sum")
    # The targets are the row-softmax; for the images they are its columns, which need not sum to one.
    image_loss = F.cross_entropy(image_logits_bB, targets_BB[:, rows].T, reduction="sum")
    return (image_loss + text_loss) / (2 * len(full.image_BD))


def multi_positive(
    local: Batch,
    full: Batch,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    hard_negatives: float | None = None,
) -> Tensor:
    """Symmetric cross-entropy with several positives (SupCon, arXiv 2004.11362, equation 2, the "out" form).

    It is the mean of two directions: each image over all texts, with its own texts as positives, and each text over all
    images. The denominator holds every column, positives too, as in the paper; with `hard_negatives` the negatives in
    it are weighted (`_weigh`), and positives keep a weight of 1. Each image needs a text in the batch and each text its
    image: the loss is NaN otherwise. `bias` is ignored.
    """
    image_logits_bT, text_logits_tB = _logits(local, full, scale)
    image_same_bT = local.image_id_B[:, None] == full.text_id_T
    text_same_tB = local.text_id_T[:, None] == full.image_id_B
    if hard_negatives is not None:
        image_logits_bT = _weigh(image_logits_bT, image_same_bT, hard_negatives)
        text_logits_tB = _weigh(text_logits_tB, text_same_tB, hard_negatives)
    image_loss = _cross_entropy(image_logits_bT, image_same_bT, label_smoothing) / len(full.image_BD)
    text_loss = _cross_entropy(text_logits_tB, text_same_tB, label_smoothing) / len(full.text_TD)
    return (image_loss + text_loss) / 2


def siglip(local: Batch, full: Batch, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sigmoid loss: a binary classification of every pair of an image and a text (arXiv 2303.15343, section 3.2).

    The label is +1 for every text of the image and -1 otherwise; logits are scale * similarity + bias. The sum over all
    pairs is divided by the number of images in the whole batch, as in the paper. Raises ValueError without a bias.
    """
    if bias is None:
        raise ValueError("siglip needs a bias: at first nearly all pairs are negative")
    logits_bT = scale * local.image_BD @ full.text_TD.T + bias
    same_bT = local.image_id_B[:, None] == full.text_id_T
    signed_bT = torch.where(same_bT, logits_bT, -logits_bT)
    return -F.logsigmoid(signed_bT).sum() / len(full.image_BD)


def build_loss(config: Loss) -> LossFunction:
    """The loss of a recipe, with its options."""
    function = {"infonce": infonce, "soft_target": soft_target, "multi_positive": multi_positive, "siglip": siglip}
    return partial(function[config.kind], **config.model_dump(exclude={"kind"}))


def _require_pairs(local: Batch, full: Batch) -> None:
    for batch in (local, full):
        images, texts = len(batch.image_BD), len(batch.text_TD)
        if images != texts or batch.image_start != batch.text_start:
            raise ValueError(f"this loss takes pairs, found {images} images and {texts} texts")


def _logits(local: Batch, full: Batch, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of local images against all texts [b, T], and of local texts against all images [t, B]."""
    image_bT = scale * local.image_BD @ full.text_TD.T
    if local is full:
        return image_bT, image_bT.T
    return image_bT, scale * local.text_TD @ full.image_BD.T


def _weigh(logits_RC: Tensor, same_RC: Tensor, beta: float) -> Tensor:
    """Logits whose negatives are weighted by their hardness: plus log w, so that exp gives w * exp(logit).

    w is exp(beta * logit) over its mean over the row's negatives, and 1 where `same_RC` (bool): importance sampling of
    the negatives that are most similar (Robinson et al., arXiv 2010.04592, without the correction for false negatives,
    which the ids identify). Weights have no gradient.
    """
    with torch.no_grad():
        hardness_RC = (beta * logits_RC).masked_fill(same_RC, -math.inf)
        negatives_R1 = (~same_RC).sum(-1, keepdim=True).to(logits_RC.dtype)
        log_weight_RC = hardness_RC - hardness_RC.logsumexp(-1, keepdim=True) + negatives_R1.log()
        # This also replaces the NaN of rows without negatives.
        log_weight_RC = log_weight_RC.masked_fill(same_RC, 0)
    return logits_RC + log_weight_RC


def _cross_entropy(
    logits_RC: Tensor, positive_RC: Tensor, smoothing: float, excluded_RC: Tensor | None = None
) -> Tensor:
    """Cross-entropy summed over rows; a row's target is uniform over its positives (bool).

    The share `smoothing` of the target is spread over all columns that are not excluded (bool).
    """
    columns = logits_RC.shape[1] if excluded_RC is None else (~excluded_RC).sum(-1)
    if excluded_RC is not None:
        logits_RC = logits_RC.masked_fill(excluded_RC, -math.inf)
    log_p_RC = F.log_softmax(logits_RC, dim=-1)
    if excluded_RC is not None:
        log_p_RC = log_p_RC.masked_fill(excluded_RC, 0)  # minus infinity times zero would be NaN
    loss_R = -(log_p_RC * positive_RC).sum(-1) / positive_RC.sum(-1)
    if smoothing:
        loss_R = (1 - smoothing) * loss_R - smoothing * log_p_RC.sum(-1) / columns
    return loss_R.sum()
