"""Section `loss` of a recipe: one of four contrastive losses, which clipline.losses computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipline.config.base import Probability, Rate, Settings


class SoftTargetLoss(Settings):
    """Cross-entropy against the softmax of within-modality similarities (Keras `nl_image_search`)."""

    kind: Literal["soft_target"]
    detach_targets: bool = False
    target_scale: Literal["multiply", "divide"] = "multiply"


class InfoNCELoss(Settings):
    """Symmetric cross-entropy against the pair itself (CLIP, arXiv 2103.00020, figure 3).

    label_smoothing: the share of the target that is spread over the whole batch, since captions fit other images too.
    hard_negatives: how much more the most similar negatives count (beta of arXiv 2010.04592); with 0 all count alike.
    If it is set, other captions of the same image are not negatives.
    """

    kind: Literal["infonce"]
    label_smoothing: Probability = 0.0
    hard_negatives: Rate | None = None


class MultiPositiveLoss(Settings):
    """Like InfoNCE, but all captions of an image are its positives (SupCon, arXiv 2004.11362, equation 2)."""

    kind: Literal["multi_positive"]
    label_smoothing: Probability = 0.0
    hard_negatives: Rate | None = None


class SigLIPLoss(Settings):
    """A binary classification of every pair of an image and a text, with a learned bias (arXiv 2303.15343)."""

    kind: Literal["siglip"]


Loss = Annotated[SoftTargetLoss | InfoNCELoss | MultiPositiveLoss | SigLIPLoss, Field(discriminator="kind")]
