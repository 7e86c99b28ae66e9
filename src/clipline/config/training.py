"""Section `train` of a recipe: optimiser, schedule, batches, and what prevents overfitting to a small dataset."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipline.config.augment import Augment
from clipline.config.base import Positive, Probability, Rate, Settings


class PerGroup(Settings):
    """One value for each group of parameters: image tower, text tower, and heads."""

    image: Rate
    text: Rate
    head: Rate


class LayerDecay(Settings):
    """Each layer's learning rate as a share of the rate of the layer above it: lower layers change less.

    Source: ELECTRA (arXiv 2003.10555), BEiT (arXiv 2106.08254).
    """

    image: Annotated[float, Field(gt=0, le=1)] = 1.0
    text: Annotated[float, Field(gt=0, le=1)] = 1.0


class Optimizer(Settings):
    """AdamW (arXiv 1711.05101). Norms, biases, the temperature and the loss's bias have no weight decay."""

    lr: PerGroup
    weight_decay: PerGroup
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Annotated[float, Field(gt=0)] = 1e-8
    layer_decay: LayerDecay = LayerDecay()


class Constant(Settings):
    """A constant learning rate."""

    kind: Literal["constant"]


class Cosine(Settings):
    """Linear warm-up over the fraction `warmup` of all steps, then a cosine down to `floor` times the rate.

    A tower that is frozen at first (see FrozenLayers) runs through its schedule in the steps from its first trainable
    epoch on.
    """

    kind: Literal["cosine"]
    warmup: Probability = 0.1
    floor: Probability = 0.0


class Plateau(Settings):
    """Multiply the learning rate by `factor` after `patience` epochs without a better validation loss."""

    kind: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=0)]


Schedule = Annotated[Constant | Cosine | Plateau, Field(discriminator="kind")]


class FrozenLayers(Settings):
    """The first layers of a trainable tower are frozen: a `share` of them, for the first `epochs` (null: all epochs).

    Gradients from new heads are noise to pretrained layers at first (arXiv 1801.06146). With a share of 1 the whole
    tower is frozen: its features come from the cache until then, and its training starts under heads that are already
    good (arXiv 2202.10054).
    """

    share: Annotated[float, Field(gt=0, le=1)]
    epochs: Positive | None = None


class Freeze(Settings):
    """Frozen layers of each tower. Of several entries that apply in an epoch, the largest share counts."""

    image: list[FrozenLayers] = []
    text: list[FrozenLayers] = []

    def share(self, kind: Literal["image", "text"], epoch: int) -> float:
        """The share of the tower's layers that is frozen in `epoch` (from 1)."""
        entries: list[FrozenLayers] = getattr(self, kind)
        return max((entry.share for entry in entries if entry.epochs is None or epoch <= entry.epochs), default=0.0)


class Train(Settings):
    """How the model is trained.

    captions: `every` caption is a sample; `random` draws captions_per_image of each image anew in each epoch; `once`
    draws one of each image at the start.
    captions_per_image: the number of captions with which an image, encoded once, is compared in a step: far cheaper
    than as many samples. It needs a loss with several positives (multi_positive, siglip).
    normalize: L2-normalise embeddings before the loss (evaluation and export always do).
    augment: random changes to images and captions, against overfitting.
    views: of a frozen image tower, the number of changed copies of each training image whose features are cached beside
    the image's own; each step takes one of them at random. The tower's work is paid once.
    freeze: the first layers of a tower that are not trained, or not at first.
    ema: the model is the exponential moving average of the weights after each step, with this decay (arXiv 1806.05594);
    at first the decay is (1 + step) / (10 + step).
    wise_ft: the model's weights are this share of the trained ones plus the rest of the initial ones (arXiv
    2109.01903), which keeps what a pretrained CLIP knows beyond this dataset.
    grad_clip: the largest norm of the gradient of all parameters.
    micro_batch_size: the most images, and captions, that are in memory at once. The gradient is still that of the whole
    batch (GradCache, arXiv 2101.06983), for one more forward pass.
    batch_norm: how trainable towers normalise. `batch`: by the statistics of what is computed at once, which is the
    batch, a micro-batch, or one process's part of the batch; the first process's running statistics are kept. `frozen`:
    by the running statistics that the tower came with, so that neither micro-batches nor processes change anything, and
    small batches do no harm; for pretrained towers (weight and bias are still trained). `synchronised`: by the
    statistics of the whole batch on several GPUs (arXiv 1711.07240).
    grad_checkpointing: towers keep no inner activations and compute them again in the backward pass (arXiv 1604.06174).
    precision: of the towers; `auto` is bf16 on CUDA and fp32 on the CPU. Heads and loss are always float32.
    compile: torch.compile towers, heads and loss; its minutes pay off in long runs. `cuda_graphs`, on CUDA only, also
    records the GPU's work and replays it, for some memory: small steps otherwise wait for the CPU to launch each
    kernel.
    select: the best epoch has the highest val_r1 (mean of both directions), the highest val_rsum (sum of R@1, 5 and 10
    in both directions, as in VSE++, arXiv 1707.05612; steadier where R@1 is low), or the lowest val_loss.
    early_stop: stop after this many epochs without a better one.
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

    def is_frozen(self, kind: Literal["image", "text"], epoch: int) -> bool:
        """Whether all layers of a trainable tower are frozen in `epoch` (from 1)."""
        return self.freeze.share(kind, epoch) == 1

    def first_trainable_epoch(self, kind: Literal["image", "text", "head"]) -> int:
        """The first epoch (from 1) in which a part of the model is trained; epochs + 1 if there is none."""
        if kind == "head":
            return 1
        epochs = range(1, self.epochs + 1)
        return next((epoch for epoch in epochs if not self.is_frozen(kind, epoch)), self.epochs + 1)

    @model_validator(mode="after")
    def _check_batch_norm(self) -> Train:
        self.require(
            self.batch_norm != "synchronised" or self.micro_batch_size is None,
            "batch_norm: synchronised waits for all processes in each micro-batch, and they may have different numbers "
            "of them. Fix: leave out micro_batch_size, or batch_norm: frozen",
        )
        return self

    @model_validator(mode="after")
    def _check_captions(self) -> Train:
        self.require(
            self.captions_per_image == 1 or self.captions == "random",
            f"captions_per_image: {self.captions_per_image} needs captions: random",
        )
        return self
