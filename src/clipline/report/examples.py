"""The searches in reports/examples.json: a sample, and the worst failures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Hit:
    """An image in a result.

    score: cosine with the query. right: whether it is a right answer. place: its rank, 1 is best.
    text: the caption that was found, where captions are searched.
    """

    image: str
    score: float
    right: bool
    place: int
    text: str | None = None


@dataclass(frozen=True)
class Example:
    """A query and its results.

    query: a caption, or an image's own captions. place: the rank of the first right answer, 1 is best, of `among`
    answers. hits: the best first; in a failure the right image comes before them.
    """

    query: str
    place: int
    among: int
    hits: list[Hit]

    @property
    def verdict(self) -> str:
        """The rank of the first right answer as text: `rank 3 of 1,000`."""
        return f"rank {self.place:,} of {self.among:,}"


@dataclass(frozen=True)
class Examples:
    """The contents of reports/examples.json.

    sample: random captions, from a fixed seed. captions, images: those whose right answers have the worst ranks.
    """

    sample: list[Example]
    captions: list[Example]
    images: list[Example]

    def as_dict(self) -> dict[str, Any]:
        """For reports/examples.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Examples:
        """The reverse of `as_dict`."""

        def read(example: dict[str, Any]) -> Example:
            return Example(**{**example, "hits": [Hit(**hit) for hit in example["hits"]]})

        return cls(**{name: [read(example) for example in values[name]] for name in ("sample", "captions", "images")})
