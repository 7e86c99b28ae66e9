"""Sections `image` and `text` of a recipe: the two towers."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clipline.config.base import Positive, Probability, Settings, resolve
from clipline.errors import UsageError


class MeanStd(Settings):
    """Mean and standard deviation of red, green and blue, for pixels scaled to 0..1."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class _ImageTower(Settings):
    """mirror: the finished model averages the features of the image and of its mirror image (Krizhevsky et al. 2012,
    section 4.1), which reduces noise for twice the work. Training takes one side at a time.
    normalize: the mean and standard deviation of pixels; `tower` is what the timm model was trained with.
    """

    trainable: bool
    mirror: bool = False
    normalize: Literal["tower", "imagenet", "clip"] | MeanStd = "tower"


class TimmTower(_ImageTower):
    """Any timm model.

    weights: `hub`, `random`, or a local .safetensors file. args: keyword arguments of timm.create_model.
    pool: `tower` is the model's own pooling; `cls` the class token; `last` the last patch token; `avg` the average over
    the feature map or the patch tokens; `avg_std` that average joined with the standard deviation, twice as wide
    (statistics pooling, Snyder et al. 2018), from which the heads of a frozen tower also learn about parts of the
    image.
    """

    tower: Literal["timm"]
    name: str
    weights: str
    pool: Literal["tower", "avg", "avg_std", "cls", "last"] = "tower"
    args: dict[str, Any] = {}


class ViTTower(_ImageTower):
    """A vision transformer of any shape, from scratch (Dosovitskiy et al., arXiv 2010.11929).

    patch_dropout: the fraction of an image's patches that a training step leaves out at random; evaluation takes all
    (FLIP, arXiv 2212.00794). It saves as much of the work, and keeps the tower from memorising images.
    init: initial weights. `random` is timm's own initialisation; `mimetic` starts with attention to similar and near
    patches (arXiv 2305.09828), which helps where images are few.
    """

    tower: Literal["vit"]
    patch: Positive
    width: Positive
    depth: Positive
    heads: Positive
    mlp: Positive
    dropout: Probability = 0.0
    patch_dropout: Probability = 0.0
    pool: Literal["avg", "avg_std", "cls", "last"] = "cls"
    weights: Literal["random"] = "random"
    init: Literal["random", "mimetic"] = "random"

    @model_validator(mode="after")
    def _check_width(self) -> ViTTower:
        self.require(self.width % self.heads == 0, f"heads ({self.heads}) must divide width ({self.width})")
        self.require(
            self.init == "random" or self.width % 4 == 0,
            f"init: mimetic needs a width that is a multiple of 4, found {self.width}",
        )
        return self

    @model_validator(mode="after")
    def _check_patch_dropout(self) -> ViTTower:
        self.require(
            not self.patch_dropout or self.pool != "last",
            "pool: last reads one patch, which patch_dropout may leave out. Fix: pool: avg or cls",
        )
        return self


ImageTower = Annotated[TimmTower | ViTTower, Field(discriminator="tower")]

# Model types of transformers, each with the key of its configuration for the number of positions, and its default.
ARCHITECTURES = {
    "bert": ("max_position_embeddings", 512),
    "distilbert": ("max_position_embeddings", 512),
    "gpt2": ("n_positions", 1024),
    "clip_text_model": ("max_position_embeddings", 77),
}


class TextTower(Settings):
    """A transformers text model.

    weights: `hub`, `random`, or a local folder. name: the hub's id, for weights `hub`.
    args: changes to the architecture's default configuration, for weights `random`.
    pool: `cls` is the first token, `eot` the last real token, `mean` the average over real tokens, `mean_cls` that
    average joined with the first token, twice as wide.
    layers: how many of the last layers are pooled and joined (as for BERT's features in arXiv 1810.04805, section 5.3).
    """

    architecture: Literal["bert", "distilbert", "gpt2", "clip_text_model"]
    name: str | None
    weights: str
    trainable: bool
    pool: Literal["cls", "mean", "mean_cls", "eot"]
    layers: Positive = 1
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> TextTower:
        self.require(self.weights != "hub" or self.name is not None, "weights: hub needs `name`, the hub's id")
        self.require(
            not self.args or self.weights == "random",
            "args need weights: random (other weights have their own configuration)",
        )
        self.require("vocab_size" not in self.args, "args.vocab_size is the tokenizer's. Fix: leave it out")
        return self

    def positions(self) -> int | None:
        """The number of positions, the longest input in tokens; None where only the hub knows."""
        key, default = ARCHITECTURES[self.architecture]
        if self.weights == "random":
            positions = self.args.get(key, default)
            self.require(
                type(positions) is int and positions > 0,
                f"args.{key} should be a whole number above 0, found {positions!r}",
            )
            return positions
        if self.weights == "hub":
            return None
        try:
            config = resolve(self.weights) / "config.json"
            text = config.read_text(encoding="utf-8") if config.is_file() else None
        except (UsageError, OSError, UnicodeDecodeError) as error:
            return self.require(False, f"weights: {str(error)[:200]}")
        if text is None:
            return None
        try:
            values = json.loads(text)
            return int(values.get("text_config", values).get(key, default))  # a CLIP has a section for its text tower
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return self.require(False, f"weights: {config} is damaged: it has no number `{key}`")
