"""Contrastive losses of a batch that one process has, or that several share.

Shape suffixes: B images, T texts, D embedding; b and t are those of them that this process has; R rows, C columns.
`scale` is 1 / tau. A loss takes the own rows and everyone's and returns the part of the whole batch's loss that the
own rows contribute: the parts of all processes add up to the loss of the whole batch, and so do their gradients
(`train.gather`). In one process own is everyone, and the part is the whole.
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
    """Embeddings of images [B, D] and texts [T, D], already L2-normalised if the recipe says so, and whose they are.

    image_id_B: int64, which image of the split. text_id_T: int64, the image that a text belongs to: text t is a
    positive of image b if and only if their ids are equal.
    image_start, text_start: where these rows stand in everyone's batch.
    """

    image_BD: Tensor
    text_TD: Tensor
    image_id_B: Tensor
    text_id_T: Tensor
    image_start: int = 0
    text_start: int = 0


# own, everyone, scale, bias -> scalar
LossFunction = Callable[[Batch, Batch, Tensor, Tensor | None], Tensor]


def infonce(
    own: Batch,
    everyone: Batch,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    hard_negatives: float | None = None,
) -> Tensor:
    """Symmetric cross-entropy of each row against its own pair (arXiv 2103.00020, figure 3).

    Row i of images and texts is pair i; raises ValueError where there are not as many of both. As in CLIP, all other
    rows are negatives, also those of the same image where a batch has it twice. With `hard_negatives` those are left
    out, and the negatives are weighted (`_weigh`). `bias` is not used: a softmax does not see it.
    """
    _require_pairs(own, everyone)
    pair_b = torch.arange(len(own.image_BD), device=own.image_BD.device) + own.image_start
    logits = _logits(own, everyone, scale)
    if hard_negatives is None:
        parts = [F.cross_entropy(each, pair_b, reduction="sum", label_smoothing=label_smoothing) for each in logits]
    else:
        same_bB = own.image_id_B[:, None] == everyone.image_id_B
        pair_bB = pair_b[:, None] == torch.arange(len(everyone.image_BD), device=pair_b.device)
        parts = [
            _cross_entropy(_weigh(each, same_bB, hard_negatives), pair_bB, label_smoothing, same_bB & ~pair_bB)
            for each in logits
        ]
    return sum(parts) / (2 * len(everyone.image_BD))


def soft_target(
    own: Batch,
    everyone: Batch,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    detach_targets: bool = False,
    target_scale: str = "multiply",
) -> Tensor:
    """Cross-entropy against soft targets from the similarities within each modality.

    logits = T I' / tau; targets = row-softmax of the mean of I I' and T T', times tau (`multiply`, as in
    moein-shariatnia/OpenAI-CLIP) or over tau (`divide`, as in the Keras example `nl_image_search`). Row i of images
    and texts is pair i; raises ValueError where there are not as many of both. `bias` is not used.

    An image's target is a column of the row-softmax, so that each process computes the targets of all rows, [B, B].
    """
    _require_pairs(own, everyone)
    image_logits_bB, text_logits_bB = _logits(own, everyone, scale)
    similarity_BB = (everyone.image_BD @ everyone.image_BD.T + everyone.text_TD @ everyone.text_TD.T) / 2
    factor = scale if target_scale == "divide" else 1 / scale
    targets_BB = F.softmax(similarity_BB * factor, dim=-1)
    if detach_targets:
        targets_BB = targets_BB.detach()
    rows = slice(own.text_start, own.text_start + len(own.text_TD))
    text_loss = F.cross_entropy(text_logits_bB, targets_BB[rows], reduction="sum")
    # The targets are the row-softmax; seen from the images, its columns (they need not sum to one).
    image_loss = F.cross_entropy(image_logits_bB, targets_BB[:, rows].T, reduction="sum")
    return (image_loss + text_loss) / (2 * len(everyone.image_BD))


def multi_positive(
    own: Batch,
    everyone: Batch,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    hard_negatives: float | None = None,
) -> Tensor:
    """Symmetric cross-entropy against all positives alike (SupCon, arXiv 2004.11362, equation 2, the "out" form).

    Of each image over all texts, its own the positives, and of each text over all images; the mean of both
    directions. The denominator holds every column, positives too, as in the paper; with `hard_negatives` the
    negatives in it are weighted (`_weigh`), and positives keep their weight of 1. Each image needs a text in the
    batch and each text its image: the loss is NaN otherwise. `bias` is not used.
    """
    image_logits_bT, text_logits_tB = _logits(own, everyone, scale)
    image_same_bT = own.image_id_B[:, None] == everyone.text_id_T
    text_same_tB = own.text_id_T[:, None] == everyone.image_id_B
    if hard_negatives is not None:
        image_logits_bT = _weigh(image_logits_bT, image_same_bT, hard_negatives)
        text_logits_tB = _weigh(text_logits_tB, text_same_tB, hard_negatives)
    image_loss = _cross_entropy(image_logits_bT, image_same_bT, label_smoothing) / len(everyone.image_BD)
    text_loss = _cross_entropy(text_logits_tB, text_same_tB, label_smoothing) / len(everyone.text_TD)
    return (image_loss + text_loss) / 2


def siglip(own: Batch, everyone: Batch, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sigmoid loss: of each image and text, whether they belong together (arXiv 2303.15343, section 3.2).

    The label is +1 for every text of the image, -1 else; logits are scale * similarity + bias. The sum over all pairs
    is divided by the images of the whole batch, as in the paper. Raises ValueError without a bias.
    """
    if bias is None:
        raise ValueError("siglip needs a bias: at first nearly all pairs are negative")
    logits_bT = scale * own.image_BD @ everyone.text_TD.T + bias
    same_bT = own.image_id_B[:, None] == everyone.text_id_T
    signed_bT = torch.where(same_bT, logits_bT, -logits_bT)
    return -F.logsigmoid(signed_bT).sum() / len(everyone.image_BD)


def build_loss(config: Loss) -> LossFunction:
    """The loss that a recipe names, its options filled in."""
    function = {"infonce": infonce, "soft_target": soft_target, "multi_positive": multi_positive, "siglip": siglip}
    return partial(function[config.kind], **config.model_dump(exclude={"kind"}))


def _require_pairs(own: Batch, everyone: Batch) -> None:
    for batch in (own, everyone):
        images, texts = len(batch.image_BD), len(batch.text_TD)
        if images != texts or batch.image_start != batch.text_start:
            raise ValueError(f"this loss takes pairs, found {images} images and {texts} texts")


def _logits(own: Batch, everyone: Batch, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Of own images to all texts [b, T], and of own texts to all images [t, B]."""
    image_bT = scale * own.image_BD @ everyone.text_TD.T
    if own is everyone:
        return image_bT, image_bT.T
    return image_bT, scale * own.text_TD @ everyone.image_BD.T


def _weigh(logits_RC: Tensor, same_RC: Tensor, beta: float) -> Tensor:
    """Logits whose negatives count by their hardness: plus log w, so that exp gives w * exp(logit).

    w is exp(beta * logit) over its mean over the row's negatives, and 1 where `same_RC` (bool): an estimate by
    importance of the negatives that the model finds likeliest (Robinson et al., arXiv 2010.04592, with no correction
    for false negatives, since ids tell them). Weights have no gradient.
    """
    with torch.no_grad():
        hardness_RC = (beta * logits_RC).masked_fill(same_RC, -math.inf)
        negatives_R1 = (~same_RC).sum(-1, keepdim=True).to(logits_RC.dtype)
        log_weight_RC = hardness_RC - hardness_RC.logsumexp(-1, keepdim=True) + negatives_R1.log()
        # Also where a row has no negatives, and these are NaN.
        log_weight_RC = log_weight_RC.masked_fill(same_RC, 0)
    return logits_RC + log_weight_RC


def _cross_entropy(
    logits_RC: Tensor, positive_RC: Tensor, smoothing: float, excluded_RC: Tensor | None = None
) -> Tensor:
    """Cross-entropy summed over rows; a row's target is uniform over its positives (bool).

    `smoothing` of it is spread over all columns that are not excluded. An excluded column (bool) does not exist.
    """
    columns = logits_RC.shape[1] if excluded_RC is None else (~excluded_RC).sum(-1)
    if excluded_RC is not None:
        logits_RC = logits_RC.masked_fill(excluded_RC, -math.inf)
    log_p_RC = F.log_softmax(logits_RC, dim=-1)
    if excluded_RC is not None:
        log_p_RC = log_p_RC.masked_fill(excluded_RC, 0)  # minus infinity times no share is NaN
    loss_R = -(log_p_RC * positive_RC).sum(-1) / positive_RC.sum(-1)
    if smoothing:
        loss_R = (1 - smoothing) * loss_R - smoothing * log_p_RC.sum(-1) / columns
    return loss_R.sum()
