"""A dataset: where it comes from, which captions are kept, how it is split (configs/data/*.yaml).

The download stage depends on `kind`, `path`, `source` and `expect`, and preprocess on `captions` and `split`: changing
the split downloads nothing again.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from clipline.config.base import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]
# A fraction of the images if below 1, otherwise a number of images.
Share = Annotated[float, Field(gt=0)]


class Expect(Settings):
    """How many images and captions a complete dataset holds; null accepts any number."""

    images: Annotated[int, Field(gt=0)] | None
    captions: Annotated[int, Field(gt=0)] | None


class CaptionRules(Settings):
    """Which captions are kept, by their number of words, and whether they are lowercased."""

    lowercase: bool = False
    min_words: Annotated[int, Field(ge=1)] = 1
    max_words: Annotated[int, Field(ge=1)] = 200

    @model_validator(mode="after")
    def _check_words(self) -> CaptionRules:
        self.require(self.min_words <= self.max_words, f"min_words {self.min_words} is over max_words {self.max_words}")
        return self


class OfficialSplit(Settings):
    """Flickr8k's official split of 6,000 / 1,000 / 1,000 images; the lists of ids ship with clipline."""

    kind: Literal["flickr8k"]


class HashSplit(Settings):
    """Images in the order of a hash of their names: the first go to test, the next to val, the rest to train.

    val, test: a fraction below 1, or a number of images. A name is in the same split on every machine. Images that
    exist under several names all go to train.
    """

    kind: Literal["hash"]
    val: Share = 0.1
    test: Share = 0.1
    seed: int = 0

    @model_validator(mode="after")
    def _check_sizes(self) -> HashSplit:
        for name, share in (("val", self.val), ("test", self.test)):
            self.require(
                share < 1 or share == int(share),
                f"{name}: {share} is neither a fraction below 1 nor a whole number",
            )
        if self.val < 1 and self.test < 1:
            self.require(self.val + self.test < 1, "val + test must be below 1: something must be left for train")
        return self


class ColumnSplit(Settings):
    """The split is a column of the dataset's own table, with the values train, val (valid, validation) and test."""

    kind: Literal["column"]


Split = Annotated[OfficialSplit | HashSplit | ColumnSplit, Field(discriminator="kind")]


class ScenesSource(Settings):
    """Rendered scenes. images: how many, all different (more do not exist). size: side in pixels."""

    images: Annotated[int, Field(ge=10, le=200_000)]
    size: Annotated[int, Field(ge=32, le=512)]
    seed: int = 0


class NoOptions(Settings):
    """A source without options beside its path."""


def _one_mark(text: str) -> str:
    if len(text) != 1 or text in '\r\n"\0':
        context = {"found": repr(text[:20])}
        raise PydanticCustomError("combination", "should be one character, no quotation mark; found {found}", context)
    return text


def _some_columns(names: str | list[str]) -> str | list[str]:
    if isinstance(names, list) and (not names or len(set(names)) < len(names)):
        raise PydanticCustomError("combination", "should name one column or more, each once")
    return names


# One column, or several with a caption each.
CaptionColumns = Annotated[str | list[str], AfterValidator(_some_columns)]


class _Captioned(Settings):
    @property
    def caption_columns(self) -> list[str]:
        """The columns that hold captions."""
        return [self.caption_column] if isinstance(self.caption_column, str) else self.caption_column


class TableSource(_Captioned):
    """A caption table beside a folder of images.

    captions: the table's path, relative to the repository. delimiter: the character between columns, such as a comma,
    a tab, or Flickr30k's `|`; null detects it. caption_column: one name or a list; a cell may hold a list of captions
    as text. split_column: the column for `split: {kind: column}`.
    """

    captions: str
    delimiter: Annotated[str, AfterValidator(_one_mark)] | None = None
    image_column: str = "image"
    caption_column: CaptionColumns = "caption"
    split_column: str | None = None


class HubSource(_Captioned):
    """Columns of a Hugging Face dataset; a caption column (one name or a list) may hold one text or a list of texts."""

    image_column: str
    caption_column: CaptionColumns
    split_column: str | None = None
    hub_split: str = "train"
    revision: str | None = None


class _Dataset(Settings):
    expect: Expect
    captions: CaptionRules
    split: Split

    @model_validator(mode="after")
    def _check_column(self) -> _Dataset:
        if self.split.kind == "column":
            column = getattr(self.source, "split_column", None)
            self.require(column is not None, "split.kind `column` needs source.split_column (kinds csv, hf)")
        return self


class Scenes(_Dataset):
    """Scenes rendered from a seed: nothing to download."""

    kind: Literal["scenes"]
    path: None
    source: ScenesSource


class Kaggle(_Dataset):
    """A Kaggle dataset, `owner/name`, whose archive has one of the layouts of kind `archive`."""

    kind: Literal["kaggle"]
    path: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    source: NoOptions


class Archive(_Dataset):
    """A zip, tar or folder on this machine, in Kaggle's or the original Flickr8k's layout."""

    kind: Literal["archive"]
    path: str
    source: NoOptions


class Table(_Dataset):
    """A folder of images with a caption table."""

    kind: Literal["csv"]
    path: str
    source: TableSource


class Hub(_Dataset):
    """A Hugging Face dataset id, or a local folder in that layout."""

    kind: Literal["hf"]
    path: str
    source: HubSource


Dataset = Annotated[Scenes | Kaggle | Archive | Table | Hub, Field(discriminator="kind")]
