"""Folders of images that the embed suites share."""

from pathlib import Path

import pytest

from tests.factories import save

COLOURS = {"red": (200, 20, 30), "green": (20, 180, 40), "blue": (30, 40, 210)}


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
