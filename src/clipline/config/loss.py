"""What training makes small: one of four contrastive losses (see clipline.losses)."""

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

    label_smoothing: this share of the target is spread over the whole batch: captions fit other images too.
    hard_negatives: how much more the likeliest of the negatives count (beta of arXiv 2010.04592); 0 is all alike.
    With it, captions of the same image are no negatives of each other.
    """

    kind: Literal["infonce"]
    label_smoothing: Probability = 0.0
    hard_negatives: Rate | None = None


class MultiPositiveLoss(Settings):
    """As InfoNCE, but all captions of an image are its positives (SupCon, arXiv 2004.11362, equation 2)."""

    kind: Literal["multi_positive"]
    label_smoothing: Probability = 0.0
    hard_negatives: Rate | None = None


class SigLIPLoss(Settings):
    """Each pair of an image and a text is a yes or no of its own, with a learned bias (arXiv 2303.15343)."""

    kind: Literal["siglip"]


Loss = Annotated[SoftTargetLoss | InfoNCELoss | MultiPositiveLoss | SigLIPLoss, Field(discriminator="kind")]
