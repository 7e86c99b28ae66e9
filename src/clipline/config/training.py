"""How a recipe is trained: optimiser, schedule, batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipline.config.base import Positive, Probability, Rate, Settings


class PerGroup(Settings):
    """One value for each group of parameters."""

    image: Rate
    text: Rate
    head: Rate


class Optimizer(Settings):
    """AdamW (arXiv 1711.05101). Norms, biases and the temperature are never decayed."""

    lr: PerGroup
    weight_decay: PerGroup
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Annotated[float, Field(gt=0)] = 1e-8


class Constant(Settings):
    """The same learning rate throughout."""

    kind: Literal["constant"]


class Cosine(Settings):
    """Linear warm-up over a fraction of all steps, then a cosine down to `floor` times the rate."""

    kind: Literal["cosine"]
    warmup: Probability = 0.1
    floor: Probability = 0.0


class Plateau(Settings):
    """Multiply by `factor` after `patience` epochs without a better validation loss."""

    kind: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=0)]


Schedule = Annotated[Constant | Cosine | Plateau, Field(discriminator="kind")]


class Train(Settings):
    """How the model is trained.

    captions: `every` row is a sample; `random`: one caption of each image, drawn anew each epoch; `once`: one
    of each image, drawn at the start.
    normalize: L2-normalise embeddings before the loss (evaluation and export always do).
    select: what the best epoch has most of (val_r1: mean of both directions) or least of (val_loss).
    early_stop: stop after so many epochs without a better one.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)]
    captions: Literal["every", "random", "once"]
    normalize: bool
    optimizer: Optimizer
    schedule: Schedule
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    early_stop: Positive | None = None
    select: Literal["val_r1", "val_loss"] = "val_r1"
