"""Folders of images that the embed suites share."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

COLOURS = {"red": (200, 20, 30), "green": (20, 180, 40), "blue": (30, 40, 210)}


def unit(colour) -> np.ndarray:
    """What the colour model makes of an image of one colour."""
    less_grey = np.array(colour, float) - np.mean(colour)
    return less_grey / np.linalg.norm(less_grey)


def save(path: Path, colour=(200, 20, 30), size=(40, 30), **options) -> Path:
    """An image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """12 images in three kinds, two levels of folders, and a file that is none."""
    folder = tmp_path / "photos"
    for index in range(4):
        for name, colour in COLOURS.items():
            kind = ("png", "JPG", "webp")[index % 3]
            save(folder / f"{'sub/' * (index % 2)}{name}-{index}.{kind}", colour, (40 + index, 30))
    (folder / "notes.txt").write_text("no image")
    return folder


def rows(folder: Path) -> list[dict]:
    """Every row of an embeddings folder, in order."""
    return [row for part in sorted(folder.glob("data/part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def errors(folder: Path) -> list[dict]:
    """errors.parquet as rows."""
    return pq.read_table(folder / "errors.parquet").to_pylist()


@pytest.fixture
def tools():
    """The functions of this file, as tests cannot import a conftest by name."""

    class Tools:
        pass

    for function in (unit, save, rows, errors):
        setattr(Tools, function.__name__, staticmethod(function))
    return Tools
