"""Random changes to training images and captions, so that a model cannot memorise a small dataset.

Everything is off by default. Frozen towers see none of it, because their features are computed once; `train.views`
keeps features of changed copies of the images instead.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from clipline.config.base import Probability, Settings

Chance = Annotated[float, Field(ge=0, le=1)]
# A factor is drawn from 1 - strength to 1 + strength; with a strength of 1 an image could turn black, or grey all over.
Strength = Annotated[float, Field(ge=0, lt=1)]


def _ordered(limits: list[float]) -> list[float]:
    low, high = limits
    if low > high:
        raise PydanticCustomError("combination", "should be [min, max], found {found}", {"found": str(limits)})
    return limits


def _around_one(limits: list[float]) -> list[float]:
    low, high = _ordered(limits)
    if not low <= 1 <= high:
        raise PydanticCustomError("combination", "should be [min, max] around 1, found {found}", {"found": str(limits)})
    return limits


_Pair = Field(min_length=2, max_length=2)
# Shares of an image's area.
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], _Pair, AfterValidator(_ordered)]
# Width by height. With 1 between the limits, some box of every area fits into a square.
Ratios = Annotated[list[Annotated[float, Field(gt=0)]], _Pair, AfterValidator(_around_one)]


class Crop(Settings):
    """A random part of the image, enlarged to the whole: objects at other sizes and positions (arXiv 1409.4842).

    scale: limits of the part's area as a share of the image's. A caption describes the whole image, so parts much below
    half of it often lack what it names; CLIP was trained with 0.9 to 1 (open_clip's default), classifiers with 0.08 to
    1. ratio: limits of the part's width by its height. Beyond [0.75, 1.3333] shapes look distorted.
    """

    scale: Shares
    ratio: Ratios = [3 / 4, 4 / 3]


class Colour(Settings):
    """Another light and another camera: factors drawn from 1 - strength to 1 + strength (arXiv 1312.5402).

    brightness: strength for all values. contrast: for their distance from the image's mean grey. saturation: for their
    distance from the pixel's own grey. 0.2 is mild; from 0.4 on skin turns orange and light clothes burn out. Hue never
    changes, because captions name colours.
    """

    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0

    @property
    def active(self) -> bool:
        """Whether any colour changes."""
        return max(self.brightness, self.contrast, self.saturation) > 0


class Augment(Settings):
    """Optional section `train.augment` of a recipe.

    crop: see Crop. colour: see Colour.
    flip: the share of images that are mirrored. Images with a caption that says left or right never are.
    word_dropout: the probability with which each token of a caption is left out (word dropout, Iyyer et al., ACL 2015,
    who use 0.3), so that a model cannot rely on a caption's exact words. The first and the last token stay.
    disable_last_epochs: the number of epochs at the end without any augmentation, on images and captions as they are,
    which is what the finished model sees (arXiv 1909.09148).
    """

    crop: Crop | None = None
    flip: Chance = 0.0
    colour: Colour = Colour()
    word_dropout: Probability = 0.0
    disable_last_epochs: Annotated[int, Field(ge=0)] = 0

    @property
    def warps(self) -> bool:
        """Whether pixels move."""
        return self.crop is not None or self.flip > 0

    @property
    def changes_images(self) -> bool:
        """Whether images change at all."""
        return self.warps or self.colour.active
