"""Searches worth looking at, as reports/examples.json holds them: a sample, and the worst failures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Hit:
    """An image beside a query. text: a caption that was found, where captions are searched."""

    image: str
    score: float
    right: bool
    place: int
    text: str | None = None


@dataclass(frozen=True)
class Example:
    """A query and what it finds.

    query: a caption, or an image's own captions. place: where the first right answer stands, 1 is best, of
    `among` answers. hits: best first; in a failure the right image stands before them.
    """

    query: str
    place: int
    among: int
    hits: list[Hit]

    @property
    def verdict(self) -> str:
        """Where the right answer stands, in words."""
        return f"place {self.place:,} of {self.among:,}"


@dataclass(frozen=True)
class Examples:
    """sample: captions drawn from a fixed seed. captions: those whose own image is found last. images: those whose
    captions are found last."""

    sample: list[Example]
    captions: list[Example]
    images: list[Example]

    def as_dict(self) -> dict[str, Any]:
        """For reports/examples.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Examples:
        """What `as_dict` gave."""

        def one(example: dict[str, Any]) -> Example:
            return Example(**{**example, "hits": [Hit(**hit) for hit in example["hits"]]})

        return cls(**{name: [one(example) for example in values[name]] for name in ("sample", "captions", "images")})
