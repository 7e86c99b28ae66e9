"""The two towers of a recipe: sections `image` and `text`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clipline.config.base import Positive, Probability, Settings, resolve
from clipline.errors import UsageError


class MeanStd(Settings):
    """Per channel (red, green, blue), for pixels scaled to 0..1."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class _ImageTower(Settings):
    """mirror: the finished model's features are the mean of those of the image and of its mirror image (Krizhevsky et
    al. 2012, section 4.1): less chance in them, for twice the work of each embedding. Training sees one side at a time.
    """

    trainable: bool
    mirror: bool = False
    # `tower`: what the timm model was trained with.
    normalize: Literal["tower", "imagenet", "clip"] | MeanStd = "tower"


class TimmTower(_ImageTower):
    """Any timm model.

    pool: `tower` (its own), `cls` or `last` (a patch token), `avg` (over the map or the patch tokens), or
    `avg_std` (their average joined with their standard deviation, twice as wide: statistics pooling, Snyder et
    al. 2018; it tells a frozen tower's heads also what stands in a part of the image only).
    """

    tower: Literal["timm"]
    name: str
    weights: str
    pool: Literal["tower", "avg", "avg_std", "cls", "last"] = "tower"
    args: dict[str, Any] = {}


class ViTTower(_ImageTower):
    """A vision transformer of any shape, from scratch (Dosovitskiy et al., arXiv 2010.11929).

    patch_dropout: fraction of an image's patches that a training step leaves out, others each time; evaluation sees
    all (FLIP, arXiv 2212.00794). A step costs so much less, and the tower cannot learn images by heart.
    init: what its weights begin as: `random`, as timm draws them, or `mimetic`, attention that looks at what is alike
    and near already (arXiv 2305.09828), for few images.
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
    def _width(self) -> ViTTower:
        self.require(self.width % self.heads == 0, f"heads ({self.heads}) must divide width ({self.width})")
        self.require(
            self.init == "random" or self.width % 4 == 0,
            f"init: mimetic needs a width that 4 divides, for sines and cosines in two directions, not {self.width}",
        )
        return self

    @model_validator(mode="after")
    def _last_patch(self) -> ViTTower:
        self.require(
            not self.patch_dropout or self.pool != "last",
            "pool: last reads one patch, which patch_dropout may leave out (use avg or cls)",
        )
        return self


ImageTower = Annotated[TimmTower | ViTTower, Field(discriminator="tower")]

# transformers' model types, each with the key of its configuration that counts positions, and its default.
ARCHITECTURES = {
    "bert": ("max_position_embeddings", 512),
    "distilbert": ("max_position_embeddings", 512),
    "gpt2": ("n_positions", 1024),
    "clip_text_model": ("max_position_embeddings", 77),
}


class TextTower(Settings):
    """A transformers text model.

    name: hub id, used where weights are `hub`. weights: `hub`, `random`, or a local folder.
    args: changes to the architecture's default configuration, only where weights are `random`.
    pool: `cls` (first token), `mean` (over real tokens), `mean_cls` (both joined, twice as wide) or `eot` (last
    real token).
    layers: how many of the last layers are pooled and joined (BERT as features: arXiv 1810.04805, section 5.3).
    """

    architecture: Literal["bert", "distilbert", "gpt2", "clip_text_model"]
    name: str | None
    weights: str
    trainable: bool
    pool: Literal["cls", "mean", "mean_cls", "eot"]
    layers: Positive = 1
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> TextTower:
        self.require(self.weights != "hub" or self.name is not None, "weights: hub needs a `name`, the hub's id")
        self.require(not self.args or self.weights == "random", "args need weights: random (others have their own)")
        self.require("vocab_size" not in self.args, "args.vocab_size: the tokenizer's is taken; leave it out")
        return self

    def positions(self) -> int | None:
        """How many positions the tower has; None where only the hub knows."""
        key, default = ARCHITECTURES[self.architecture]
        if self.weights == "random":
            found = self.args.get(key, default)
            self.require(
                type(found) is int and found > 0,
                f"args.{key} should be a whole number above 0, found {found!r}",
            )
            return found
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
            facts = json.loads(text)
            return int(facts.get("text_config", facts).get(key, default))  # of a whole CLIP the text's part
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return self.require(False, f"weights: {config} is damaged: no number `{key}` can be read from it")
