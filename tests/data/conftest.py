"""Small raw datasets: images of noise, captions of a few words."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipline.config.base import validate
from clipline.config.dataset import Dataset
from clipline.config.recipe import Recipe
from clipline.data.prepare import prepare
from clipline.data.sources import fetch as fetch_dataset
from tests.data import layouts

WORDS = "a red dog runs over green grass while two small children watch the blue ball roll down hill"


class Raw:
    """Makes a raw folder: images/ and captions.csv."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir(parents=True)
        self.rows: list[tuple[str, ...]] = []

    def image(self, name: str, seed: int, size: tuple[int, int] = (40, 30)) -> None:
        """Write noise that depends only on `seed`: the same seed under two names makes a copy."""
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(self.images / name)

    def add(self, name: str, seed: int, captions: Iterable[str] | None = None, split: str | None = None) -> None:
        """Add an image and its captions (by default two of a few words)."""
        self.image(name, seed)
        rng = np.random.default_rng(seed)
        for text in captions or [f"{' '.join(rng.choice(WORDS.split(), 6))} {seed} {turn}" for turn in range(2)]:
            self.rows.append((name, text) if split is None else (name, text, split))

    def fill(self, count: int) -> None:
        """Add `count` different images."""
        for seed in range(count):
            self.add(f"{seed:04d}.png", seed)

    def write(self) -> Path:
        """Write captions.csv; return the folder."""
        header = ("image", "caption", "split")[: max((len(row) for row in self.rows), default=2)]
        with (self.folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *self.rows])
        return self.folder


@pytest.fixture
def source(tmp_path: Path) -> Raw:
    return Raw(tmp_path / "raw")


Settings = tuple[Any, Recipe]


@pytest.fixture
def settings(make_recipe: Callable[[dict | None], Recipe]) -> Callable[..., Settings]:
    """settings(split={...}, captions={...}, **{"recipe.key": value}) -> dataset and recipe."""

    def make(split: dict | None = None, captions: dict | None = None, **recipe: Any) -> Settings:
        dataset = {
            "kind": "csv",
            "path": "any",
            "source": {"captions": "any.csv", "split_column": "split"},
            "expect": {"images": None, "captions": None},
            "captions": captions or {},
            "split": split or {"kind": "hash", "val": 2, "test": 2},
        }
        return validate(Dataset, dataset, "test"), make_recipe(recipe)

    return make


@pytest.fixture
def run(source: Raw, tmp_path: Path, settings: Callable[..., Settings]) -> Callable[..., dict[str, Any]]:
    """run(max_broken=..., split=..., ...): write captions.csv and prepare into tmp_path/prepared."""

    def call(max_broken: float = 0.01, **changes: Any) -> dict[str, Any]:
        return prepare(source.write(), tmp_path / "prepared", *settings(**changes), max_broken=max_broken)

    return call


@pytest.fixture
def data() -> ModuleType:
    """Datasets in every layout."""
    return layouts


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., layouts.Fetched]:
    """fetch(kind, path, source, expect) -> Fetched; always with the same output and cache folders."""

    def call(kind: str, path: object, source: dict | None = None, expect: dict | None = None) -> layouts.Fetched:
        out, cache = tmp_path / "out" / "raw", tmp_path / "cache" / "x"
        values = fetch_dataset(layouts.settings(kind, path, source, expect), out, cache)
        assert not cache.exists()
        return layouts.read_raw(out, values)

    return call
