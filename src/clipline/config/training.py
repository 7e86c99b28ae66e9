"""How a recipe is trained: optimiser, schedule, batches, and what keeps a small dataset from being known by heart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipline.config.augment import Augment
from clipline.config.base import Positive, Probability, Rate, Settings


class PerGroup(Settings):
    """One value for each group of parameters."""

    image: Rate
    text: Rate
    head: Rate


class LayerDecay(Settings):
    """Each layer learns at this share of the rate of the one above it: what lies deep is known already.

    Source: ELECTRA (arXiv 2003.10555), BEiT (arXiv 2106.08254).
    """

    image: Annotated[float, Field(gt=0, le=1)] = 1.0
    text: Annotated[float, Field(gt=0, le=1)] = 1.0


class Optimizer(Settings):
    """AdamW (arXiv 1711.05101). Norms, biases, the temperature and the loss's bias are never decayed."""

    lr: PerGroup
    weight_decay: PerGroup
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Annotated[float, Field(gt=0)] = 1e-8
    layer_decay: LayerDecay = LayerDecay()


class Constant(Settings):
    """The same learning rate throughout."""

    kind: Literal["constant"]


class Cosine(Settings):
    """Linear warm-up over a fraction of all steps, then a cosine down to `floor` times the rate.

    A tower that rests at first (see FrozenLayers) has its whole schedule in the steps from its waking on.
    """

    kind: Literal["cosine"]
    warmup: Probability = 0.1
    floor: Probability = 0.0


class Plateau(Settings):
    """Multiply by `factor` after `patience` epochs without a better validation loss."""

    kind: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=0)]


Schedule = Annotated[Constant | Cosine | Plateau, Field(discriminator="kind")]


class FrozenLayers(Settings):
    """The first layers of a trainable tower that learn nothing: a `share` of them, for the first `epochs`.

    null epochs: for ever. What new heads send down at first is noise to pretrained layers (arXiv 1801.06146). With a
    share of 1 the tower rests: meanwhile its features come from the cache, as a frozen tower's do, and the heads that
    it meets when it wakes are good ones already (arXiv 2202.10054).
    """

    share: Annotated[float, Field(gt=0, le=1)]
    epochs: Positive | None = None


class Freeze(Settings):
    """Of each tower; of several entries that hold in an epoch, the one with the largest share counts."""

    image: list[FrozenLayers] = []
    text: list[FrozenLayers] = []

    def share(self, kind: Literal["image", "text"], epoch: int) -> float:
        """The share of the tower's layers that learns nothing in `epoch` (from 1)."""
        entries: list[FrozenLayers] = getattr(self, kind)
        return max((each.share for each in entries if each.epochs is None or epoch <= each.epochs), default=0.0)


class Train(Settings):
    """How the model is trained.

    captions: `every` row is a sample; `random`: captions_per_image of each image, drawn anew each epoch; `once`: one
    of each image, drawn at the start.
    captions_per_image: each image is encoded once and meets so many of its captions in a step, far cheaper than as
    many samples; needs a loss that knows several positives (multi_positive, siglip).
    normalize: L2-normalise embeddings before the loss (evaluation and export always do).
    augment: changes to images and captions in training, so that few samples are not known by heart.
    views: of a frozen image tower, the features of so many changed copies of each training image are kept beside its
    own, and each step takes one of them at random: augmentation that is paid for once.
    freeze: the first layers of a tower that learn nothing, or nothing at first.
    ema: the model is the average of the weights of the steps, an older one counting this much less with each step
    (arXiv 1806.05594 has why averages generalise); its warm-up is (1 + step) / (10 + step).
    wise_ft: the model is this share of the trained weights and the rest of those it began with (arXiv 2109.01903):
    keeps what a pretrained CLIP knew beyond this dataset.
    micro_batch_size: the most images, and captions, that are in memory at once. The gradient is still that of the whole
    batch (GradCache, arXiv 2101.06983), for one more forward pass.
    batch_norm: of trainable towers. `batch` normalises by what is computed at once: the batch, a micro-batch, or the
    part of one of several processes, whose first one's running statistics are kept. `frozen` keeps the running
    statistics that the tower came with: neither micro-batches nor processes change anything, and small batches do no
    harm; for pretrained towers (its weight and bias still learn). `synchronised` normalises by the whole batch of
    several GPUs (arXiv 1711.07240).
    grad_checkpointing: towers keep no inner activations and compute them again going back (arXiv 1604.06174).
    precision: of the towers; `auto` is bf16 on CUDA and fp32 on the CPU. Heads and loss are float32 always.
    compile: torch.compile what a step computes, towers, heads and loss; its minutes pay off in long runs.
    `cuda_graphs` also records what the GPU does and plays it back, for some memory: small steps else wait for the CPU,
    which launches each kernel. On CUDA alone.
    select: what the best epoch has most of (val_r1: mean of both directions; val_rsum: sum of R@1, 5 and 10 of both, as
    VSE++ chooses, arXiv 1707.05612, steadier where R@1 is low) or least of (val_loss).
    early_stop: stop after so many epochs without a better one.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)]
    captions: Literal["every", "random", "once"]
    captions_per_image: Positive = 1
    normalize: bool
    optimizer: Optimizer
    schedule: Schedule
    augment: Augment | None = None
    views: Annotated[int, Field(ge=0)] = 0
    freeze: Freeze = Freeze()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    wise_ft: Annotated[float, Field(gt=0, le=1)] | None = None
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    micro_batch_size: Positive | None = None
    batch_norm: Literal["batch", "frozen", "synchronised"] = "batch"
    grad_checkpointing: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | Literal["cuda_graphs"] = False
    early_stop: Positive | None = None
    select: Literal["val_r1", "val_rsum", "val_loss"] = "val_r1"

    def rests(self, kind: Literal["image", "text"], epoch: int) -> bool:
        """Whether all layers of a trainable tower wait in `epoch` (from 1)."""
        return self.freeze.share(kind, epoch) == 1

    def wakes(self, kind: Literal["image", "text", "head"]) -> int:
        """Epochs that a tower rests before it learns anything; 0 for the heads."""
        if kind == "head":
            return 0
        return next((epoch for epoch in range(self.epochs) if not self.rests(kind, epoch + 1)), self.epochs)

    @model_validator(mode="after")
    def _batch_norm(self) -> Train:
        self.require(
            self.batch_norm != "synchronised" or self.micro_batch_size is None,
            "batch_norm: synchronised waits for all processes in each micro-batch, and they may have different numbers "
            "of them. Fix: leave out micro_batch_size, or batch_norm: frozen",
        )
        return self

    @model_validator(mode="after")
    def _captions(self) -> Train:
        self.require(
            self.captions_per_image == 1 or self.captions == "random",
            f"captions_per_image: {self.captions_per_image} goes with captions: random",
        )
        return self
