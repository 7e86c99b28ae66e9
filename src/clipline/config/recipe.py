"""A recipe: inputs, two towers, head, temperature, loss and training (configs/recipe/*.yaml).

`preprocess` reads `inputs`, `text.name` and `text.weights`; `train` reads everything. A recipe is checked
here as far as that needs no weights and no torch, so that an impossible one stops before any work.
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

BPE_LEAST = 256 + 3  # all bytes; padding, start and end


# ---------------------------------------------------------------- inputs


class Tokenizer(Settings):
    """`tower`: the text tower's own; `wordpiece` or `bpe`: trained on the training captions."""

    kind: Literal["tower", "wordpiece", "bpe"]
    vocab_size: Annotated[int, Field(ge=100)] | None = None
    lowercase: bool = True

    @model_validator(mode="after")
    def _size(self) -> Tokenizer:
        trained = self.kind != "tower"
        self.require(trained == (self.vocab_size is not None), "vocab_size goes with wordpiece or bpe, and only there")
        self.require(trained or self.lowercase, "lowercase: a tower's own tokenizer decides by itself; leave it out")
        self.require(
            self.kind != "bpe" or self.vocab_size >= BPE_LEAST,
            f"vocab_size: found {self.vocab_size}; bpe needs at least {BPE_LEAST}",
        )
        return self


class Inputs(Settings):
    """What both towers are fed: S x S pixels and at most max_length tokens."""

    image_size: Annotated[int, Field(ge=32, le=1024)]
    resize: Literal["shortest", "squash"]
    max_length: Annotated[int, Field(ge=4)]
    tokenizer: Tokenizer


# ---------------------------------------------------------------- head, temperature


class Head(Settings):
    """From tower features to the embedding of `dim`, one for each tower.

    mlp: Linear-GELU-Linear-dropout, residual, LayerNorm (the Keras `nl_image_search` head).
    residual: the same without the LayerNorm, which suits features that are trained no further.
    norm_linear, linear_norm, linear: what they say.
    tower: the tower's own projection (CLIP's), of its own dimension, which must be `dim`.
    num_heads: the number of heads side by side, each with dim / num_heads of the dimensions and its own loss: an ensemble
    in one model, whose similarity is the mean of theirs (their errors differ; arXiv 1612.01474).
    """

    kind: Literal["mlp", "residual", "norm_linear", "linear_norm", "linear", "tower"]
    dim: Positive
    num_heads: Positive = 1
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0  # of the tower's features: what augmentation is to a frozen tower

    @model_validator(mode="after")
    def _heads(self) -> Head:
        self.require(self.dim % self.num_heads == 0, f"num_heads ({self.num_heads}) must divide dim ({self.dim})")
        self.require(self.num_heads == 1 or self.kind != "tower", "a tower has one projection: num_heads must be 1")
        return self


class Temperature(Settings):
    """tau; logits are similarities / tau. A learned one is kept as log(1 / tau), clamped at max_scale."""

    init: Annotated[float, Field(gt=0)]
    learned: bool
    max_scale: Annotated[float, Field(gt=0)] | None = 100.0

    @model_validator(mode="after")
    def _within(self) -> Temperature:
        self.require(
            1 / self.init <= (self.max_scale or math.inf),
            f"init ({self.init}) begins at a scale of {1 / self.init:g}, over max_scale ({self.max_scale})",
        )
        return self


# ---------------------------------------------------------------- all of it


class Recipe(Settings):
    """Everything that makes the model, but the data."""

    inputs: Inputs
    image: ImageTower
    text: TextTower
    head: Head
    temperature: Temperature
    loss: Loss
    train: Train

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        self._check_patch()
        own = isinstance(self.image, TimmTower) and self.text.architecture == "clip_text_model"
        self.require(
            self.head.kind != "tower" or own,
            "head.kind: tower needs towers with projections: image.tower timm and text.architecture clip_text_model",
        )
        joined = self.image.pool == "avg_std" or self.text.pool == "mean_cls" or self.text.layers > 1
        self.require(
            self.head.kind != "tower" or not joined,
            "head.kind: tower takes features of the tower's own width: no avg_std, mean_cls or text.layers over 1",
        )
        for kind in ("image", "text"):
            self.require(
                getattr(self, kind).trainable or not getattr(self.train.freeze, kind),
                f"train.freeze.{kind}: {kind}.trainable is false, so nothing of it ever learns; leave it out",
            )
        self.require(
            self.train.captions_per_image == 1 or self.loss.kind in {"multi_positive", "siglip"},
            f"train.captions_per_image ({self.train.captions_per_image}) needs loss.kind multi_positive or siglip: "
            f"{self.loss.kind} knows one caption of an image",
        )
        self._check_augment()
        positions, length = self.text.positions(), self.inputs.max_length
        self.require(
            positions is None or length <= positions,
            f"inputs.max_length ({length}) is over the {positions} positions of the text tower",
        )
        own = self.inputs.tokenizer.kind == "tower"
        self.require(
            not own or self.text.weights != "random",
            "inputs.tokenizer.kind: tower needs text.weights hub or a folder; random takes wordpiece or bpe",
        )
        self.require(
            own or self.text.weights == "random",
            "a trained tokenizer (wordpiece, bpe) fits only text.weights: random; others know their own",
        )
        return self

    def _check_augment(self) -> None:
        augment, views = self.train.augment, self.train.views
        self.require(
            not views or (augment is not None and augment.changes_images),
            "train.views: needs changes to images in train.augment",
        )
        self.require(
            not views or not self.image.trainable or self.train.rests("image", 1),
            "train.views: needs an image tower that is frozen, or rests (train.freeze.image: a share of 1)",
        )
        if augment is None:
            return
        self.require(
            not augment.changes_images or self.image.trainable or views > 0,
            "train.augment: the features of a frozen image tower are computed once, so its images cannot change; "
            "set train.views, the number of changed copies of each",
        )
        self.require(
            not augment.word_dropout or self.text.trainable,
            "train.augment.word_dropout: the features of a frozen text tower are computed once; leave it out",
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
            found = re.search(r"patch(\d+)", self.image.name)
            key, patch = "the patch of image.name", int(found[1]) if found else 1
        allowed = [n for n in range(patch, 1025, patch) if n >= 32]
        near = sorted(allowed, key=lambda n: abs(n - size))[:2]
        self.require(
            size % patch == 0,
            f"{key} ({patch}) does not divide inputs.image_size ({size}); nearest: {sorted(near)}",
        )
