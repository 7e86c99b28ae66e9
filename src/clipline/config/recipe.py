"""A recipe: inputs, two towers, heads, temperature, loss and training (configs/recipe/*.yaml).

The stage preprocess depends on `inputs`, `text.name` and `text.weights`, and train on everything. All that can be
checked without weights and without torch is checked here, so that an impossible recipe fails before any work.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipline.config.base import Positive, Probability, Settings
from clipline.config.loss import Loss
from clipline.config.towers import ImageTower, TextTower, TimmTower, ViTTower
from clipline.config.training import Train

BPE_MIN_VOCAB = 256 + 3  # all bytes; padding, start and end


# ---------------------------------------------------------------- inputs


class Tokenizer(Settings):
    """kind: `tower` is the text tower's own tokenizer; `wordpiece` or `bpe` is one trained on the training captions."""

    kind: Literal["tower", "wordpiece", "bpe"]
    vocab_size: Annotated[int, Field(ge=100)] | None = None
    lowercase: bool = True

    @model_validator(mode="after")
    def _check_size(self) -> Tokenizer:
        trained = self.kind != "tower"
        self.require(trained == (self.vocab_size is not None), "vocab_size goes with wordpiece or bpe, and only there")
        self.require(trained or self.lowercase, "lowercase: a tower's own tokenizer decides. Fix: leave it out")
        self.require(
            self.kind != "bpe" or self.vocab_size >= BPE_MIN_VOCAB,
            f"vocab_size: found {self.vocab_size}; bpe needs at least {BPE_MIN_VOCAB}",
        )
        return self


class Inputs(Settings):
    """Inputs of both towers: image_size x image_size pixels, and at most max_length tokens."""

    image_size: Annotated[int, Field(ge=32, le=1024)]
    resize: Literal["shortest", "squash"]
    max_length: Annotated[int, Field(ge=4)]
    tokenizer: Tokenizer


# ---------------------------------------------------------------- head, temperature


class Head(Settings):
    """Each tower's projection from its features to an embedding of `dim` dimensions.

    kind: `mlp` is Linear-GELU-Linear-dropout, residual, LayerNorm (the Keras example `nl_image_search`); `residual` is
    the same without the LayerNorm, which suits features of frozen towers; `linear`, `norm_linear` and `linear_norm` are
    a Linear without, after and before a LayerNorm; `tower` is the tower's own projection (CLIP's), whose dimension must
    be `dim`.
    num_heads: the number of heads side by side, each with dim / num_heads dimensions and a loss of its own: an ensemble
    in one model, whose similarity is the mean of theirs (their errors differ; arXiv 1612.01474).
    input_dropout: dropout of the tower's features, which regularises the heads of a frozen tower.
    """

    kind: Literal["mlp", "residual", "norm_linear", "linear_norm", "linear", "tower"]
    dim: Positive
    num_heads: Positive = 1
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0

    @model_validator(mode="after")
    def _check_heads(self) -> Head:
        self.require(self.dim % self.num_heads == 0, f"num_heads ({self.num_heads}) must divide dim ({self.dim})")
        self.require(self.num_heads == 1 or self.kind != "tower", "a tower has one projection. Fix: num_heads: 1")
        return self


class Temperature(Settings):
    """The temperature tau, by which similarities are divided to give logits. max_scale: limit of a learned 1 / tau."""

    init: Annotated[float, Field(gt=0)]
    learned: bool
    max_scale: Annotated[float, Field(gt=0)] | None = 100.0

    @model_validator(mode="after")
    def _check_scale(self) -> Temperature:
        self.require(
            1 / self.init <= (self.max_scale or math.inf),
            f"init ({self.init}) is a scale of {1 / self.init:g}, over max_scale ({self.max_scale})",
        )
        return self


# ---------------------------------------------------------------- recipe


class Recipe(Settings):
    """Everything that decides the model, except for the data."""

    inputs: Inputs
    image: ImageTower
    text: TextTower
    head: Head
    temperature: Temperature
    loss: Loss
    train: Train

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        self._check_patch()
        self._check_head()
        self._check_train()
        self._check_augment()
        self._check_text()
        return self

    def _check_head(self) -> None:
        projections = isinstance(self.image, TimmTower) and self.text.architecture == "clip_text_model"
        self.require(
            self.head.kind != "tower" or projections,
            "head.kind: tower needs towers with projections: image.tower timm and text.architecture clip_text_model",
        )
        wider = self.image.pool == "avg_std" or self.text.pool == "mean_cls" or self.text.layers > 1
        self.require(
            self.head.kind != "tower" or not wider,
            "head.kind: tower takes features of the tower's own width: no avg_std, mean_cls or text.layers over 1",
        )

    def _check_train(self) -> None:
        for kind in ("image", "text"):
            self.require(
                getattr(self, kind).trainable or not getattr(self.train.freeze, kind),
                f"train.freeze.{kind}: {kind}.trainable is false, so that nothing of it is trained. Fix: leave it out",
            )
        self.require(
            self.train.captions_per_image == 1 or self.loss.kind in {"multi_positive", "siglip"},
            f"train.captions_per_image ({self.train.captions_per_image}) needs loss.kind multi_positive or siglip: "
            f"{self.loss.kind} takes one caption of an image",
        )

    def _check_text(self) -> None:
        positions, length = self.text.positions(), self.inputs.max_length
        self.require(
            positions is None or length <= positions,
            f"inputs.max_length ({length}) is over the {positions} positions of the text tower",
        )
        own_tokenizer = self.inputs.tokenizer.kind == "tower"
        self.require(
            not own_tokenizer or self.text.weights != "random",
            "inputs.tokenizer.kind: tower needs text.weights hub or a folder; random takes wordpiece or bpe",
        )
        self.require(
            own_tokenizer or self.text.weights == "random",
            "a trained tokenizer (wordpiece, bpe) fits only text.weights: random; other weights have their own",
        )

    def _check_augment(self) -> None:
        augment, views = self.train.augment, self.train.views
        self.require(
            not views or (augment is not None and augment.changes_images),
            "train.views needs train.augment to change images",
        )
        self.require(
            not views or not self.image.trainable or self.train.is_frozen("image", 1),
            "train.views needs an image tower that is frozen, for good or at first (train.freeze.image: share 1)",
        )
        if augment is None:
            return
        self.require(
            not augment.changes_images or self.image.trainable or views > 0,
            "train.augment: the features of a frozen image tower are computed once, so that its images cannot change. "
            "Fix: set train.views, the number of changed copies of each image",
        )
        self.require(
            not augment.word_dropout or self.text.trainable,
            "train.augment.word_dropout: the features of a frozen text tower are computed once. Fix: leave it out",
        )
        self.require(
            augment.disable_last_epochs < self.train.epochs,
            f"train.augment.disable_last_epochs ({augment.disable_last_epochs}) must be under train.epochs "
            f"({self.train.epochs})",
        )

    def _check_patch(self) -> None:
        size = self.inputs.image_size
        if isinstance(self.image, ViTTower):
            key, patch = "image.patch", self.image.patch
        else:
            match = re.search(r"patch(\d+)", self.image.name)
            key, patch = "the patch of image.name", int(match[1]) if match else 1
        near = sorted(range(patch, 1025, patch), key=lambda allowed: (allowed < 32, abs(allowed - size)))[:2]
        self.require(
            size % patch == 0,
            f"{key} ({patch}) does not divide inputs.image_size ({size}); nearest: {sorted(near)}",
        )
