"""Draw a confusion matrix: which classes were taken for which. Pillow only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clipline.classify.evaluate import Evaluation
from clipline.pictures import gallery
from clipline.pictures.gallery import save

RIGHT, WRONG = (24, 120, 60), (190, 60, 20)  # full shades: green where right, orange where wrong
PALE = 247  # of a share of 0
MARGIN, TEXT, HEAD = 24, 15, 70
LARGEST, SMALLEST = 56, 4
SIDE = 1600  # pixels that the cells together may take before they are made smaller
MAX_NAME = 220  # pixels; a longer name is cut
MIN_FOR_NAMES = 12  # pixels of a cell: smaller ones have no room for names beside them
MIN_FOR_NUMBERS = 30  # smaller ones have no room for numbers in them


def draw(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrix: a row for each class, a column for each label; the shade is the share of the row.

    Raises CliplineError where `path` cannot be written.
    """
    rows, columns = evaluation.confusion.shape
    cell = int(np.clip(SIDE // columns, SMALLEST, LARGEST))
    size = min(TEXT, max(cell - 4, 8))
    font = gallery.font(size)
    named = cell >= MIN_FOR_NAMES
    names = [_short(name, font) for name in evaluation.labels] if named else []
    room = int(max((font.getlength(name) for name in names), default=0)) + 10
    left, top = MARGIN + 26 + room, HEAD + 26 + room
    picture = Image.new("RGB", (max(left + columns * cell + MARGIN, 640), top + rows * cell + MARGIN), gallery.PAPER)
    pen = ImageDraw.Draw(picture)
    title = f"{evaluation.top1:.1f}% of {evaluation.images:,} images right; by chance {evaluation.chance:.1f}%"
    pen.text((MARGIN, MARGIN - 4), title, gallery.INK, gallery.font(gallery.TITLE_SIZE))
    legend = "numbers: percent of the row" if cell >= MIN_FOR_NUMBERS else "the darker, the more of the row"
    legend = f"rows: the class, columns: the label found, {legend}; green right, orange wrong"
    pen.text((MARGIN, MARGIN + 24), legend, gallery.MUTED, gallery.font(13))
    for number, name in enumerate(names):
        if number < rows:
            pen.text((left - 8, top + (number + 0.5) * cell), name, gallery.INK, font, anchor="rm")
        _upright(picture, name, font, (left + number * cell + cell // 2, top - 6))
    _cells(picture, evaluation, (left, top), cell)
    save(picture, path)


def _cells(picture: Image.Image, evaluation: Evaluation, corner: tuple[int, int], cell: int) -> None:
    counts = evaluation.confusion.sum(axis=1, keepdims=True)
    shares = evaluation.confusion / np.maximum(counts, 1)
    full = np.where(np.eye(*shares.shape, dtype=bool)[..., None], RIGHT, WRONG)
    shades = np.rint(PALE + (full - PALE) * shares[..., None] ** 0.7).astype(np.uint8)
    size = (shares.shape[1] * cell, shares.shape[0] * cell)
    picture.paste(Image.fromarray(shades).resize(size, Image.Resampling.NEAREST), corner)
    pen, font = ImageDraw.Draw(picture), gallery.font(max(10, min(14, cell // 3)))
    (left, top), (width, height) = corner, size
    if cell >= MIN_FOR_NAMES:  # a line between them
        for x in range(left + cell - 1, left + width, cell):
            pen.line((x, top, x, top + height), gallery.PAPER)
        for y in range(top + cell - 1, top + height, cell):
            pen.line((left, y, left + width, y), gallery.PAPER)
    for row, column in np.argwhere(shares >= 0.005) if cell >= MIN_FOR_NUMBERS else ():
        share = shares[row, column]
        at = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
        pen.text(at, f"{100 * share:.0f}", "white" if share > 0.45 else gallery.INK, font, anchor="mm")


def _upright(picture: Image.Image, name: str, font, foot: tuple[int, int]) -> None:
    """Write `name` from `foot` upwards."""
    box = font.getbbox(name)
    strip = Image.new("RGB", (max(1, round(font.getlength(name))), box[3] + 2), gallery.PAPER)
    ImageDraw.Draw(strip).text((0, 0), name, gallery.INK, font)
    strip = strip.rotate(90, expand=True)
    picture.paste(strip, (foot[0] - strip.width // 2, foot[1] - strip.height))


def _short(name: str, font) -> str:
    while len(name) > 1 and font.getlength(name) > MAX_NAME:
        name = name[:-2] + "…"
    return name
