"""What training changes in images and captions, so that a model cannot know a small dataset by heart.

Everything is off until a recipe asks for it. Towers that are frozen see none of it: their features are computed once.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from clipline.config.base import Probability, Settings

Chance = Annotated[float, Field(ge=0, le=1)]
# A factor is drawn from 1 - strength to 1 + strength; at 1 a picture could turn black, or grey all over.
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
# Width by height. With 1 between them some box of every area fits into a square.
Ratios = Annotated[list[Annotated[float, Field(gt=0)]], _Pair, AfterValidator(_around_one)]


class Crop(Settings):
    """A part of the image in its place, enlarged to the whole: objects at other sizes and places (arXiv 1409.4842).

    scale: the part's area as a share of the image's. Captions tell of the whole image, so parts much below half often
    lack what they name; CLIP was trained with 0.9 to 1 (open_clip's default), classifiers with 0.08 to 1.
    ratio: the part's width by its height. Beyond [0.75, 1.3333] shapes look wrong.
    """

    scale: Shares
    ratio: Ratios = [3 / 4, 4 / 3]


class Colour(Settings):
    """Another light and another camera: factors drawn from 1 - strength to 1 + strength (arXiv 1312.5402).

    brightness: of all values. contrast: of their distance from the picture's mean grey. saturation: of their distance
    from the pixel's own grey. 0.2 is mild; from 0.4 on skin turns orange and light clothes burn out, and captions name
    colours. Hue is not touched for that reason.
    """

    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0

    @property
    def active(self) -> bool:
        """Whether any colour changes."""
        return max(self.brightness, self.contrast, self.saturation) > 0


class Erase(Settings):
    """A box of the image gets one plain colour: the model must use more than one detail (arXiv 1708.04896).

    probability: the share of images that lose a box. area: of the box, as a share of the image's.
    """

    probability: Chance
    area: Shares = [0.02, 0.2]


class Synonyms(Settings):
    """Other words for the same: captions that nobody wrote, with what they mean kept (arXiv 1901.11196).

    groups: words of which any may stand for any other, as captions spell them (`[child, kid, youngster]`). They stand
    in the recipe itself, so that a changed word is a changed recipe. Only words that are one token of the tokenizer
    can be swapped; training names the others.
    probability: the share of such words that are swapped; the paper finds 0.1 best on most sizes of data.
    """

    groups: Annotated[list[Annotated[list[str], Field(min_length=2)]], Field(min_length=1)]
    probability: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _words(self) -> Synonyms:
        seen: set[str] = set()
        for word in (word for group in self.groups for word in group):
            self.require(word.split() == word.split(" "), f"groups: {word!r} is no word")
            self.require(word not in seen, f"groups: {word!r} stands there more than once")
            seen.add(word)
        return self


class Augment(Settings):
    """Optional section `train.augment` of a recipe.

    crop: see Crop. colour: see Colour. erase: see Erase.
    flip: the share of images that are mirrored: a second view for nothing. Images of which a caption says left or
    right never are.
    grey: the share of images without colour: shapes must count too (arXiv 2002.05709). Captions name colours: keep it
    low.
    word_dropout: each token of a caption is left out with this probability (word dropout, Iyyer et al., ACL 2015, who
    use 0.3): a model cannot go by a caption's exact words. Special tokens stay.
    synonyms: see Synonyms. Swaps come before anything is left out.
    off_last: so many epochs at the end see everything as it is, as a finished model does (arXiv 1909.09148).
    """

    crop: Crop | None = None
    flip: Chance = 0.0
    colour: Colour = Colour()
    grey: Chance = 0.0
    erase: Erase | None = None
    word_dropout: Probability = 0.0
    synonyms: Synonyms | None = None
    off_last: Annotated[int, Field(ge=0)] = 0

    @property
    def warps(self) -> bool:
        """Whether pixels move."""
        return self.crop is not None or self.flip > 0

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return self.colour.active or self.grey > 0

    @property
    def texts(self) -> bool:
        """Whether captions change at all."""
        return self.word_dropout > 0 or self.synonyms is not None

    @property
    def images(self) -> bool:
        """Whether images change at all."""
        return self.warps or self.recolours or (self.erase is not None and self.erase.probability > 0)
