"""Draw pictures of searches: a title (the query) above its images, each with a caption and maybe a frame.

Pillow only, so that `clipline search --gallery` works without matplotlib; the evaluation uses it too.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipline.errors import CliplineError, UsageError
from clipline.image import ImageError, open_rgb
from clipline.utils.files import output

CELL = 224  # side of the square that an image is fitted into, in pixels
GAP, MARGIN, FRAME, PAD = 14, 24, 6, 6
TITLE_SIZE, CAPTION_SIZE = 21, 15
CAPTION_LINES = 4
PAPER, INK, MUTED, MAT = "white", "#1c1c1e", "#5f6368", "#f1f2f4"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Cell:
    """One image. caption: up to four lines below it, such as a score. frame: a colour, or None for no frame."""

    image: Path
    caption: str = ""
    frame: str | None = None


@dataclass(frozen=True)
class Row:
    """A title, such as the query, and the images that belong to it, best first."""

    title: str
    cells: list[Cell]


def check_path(path: Path) -> None:
    """Raise UsageError unless `path` names a kind of picture that `draw` writes; call it before long work."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a picture's name ends in one of {', '.join(SUFFIXES)}")


def draw(rows: Sequence[Row], path: Path, *, columns: int | None = None) -> None:
    """Draw `rows` below each other into the picture `path`.

    columns: images side by side before a row wraps; None keeps each row on one line. Raises UsageError for a
    `path` of another kind, and CliplineError where an image cannot be read or the picture not be written.
    """
    check_path(path)
    columns = columns or max((len(row.cells) for row in rows), default=1) or 1
    width = 2 * MARGIN + columns * CELL + (columns - 1) * GAP
    blocks = [_block(row, columns, width) for row in rows]
    picture = Image.new("RGB", (width, 2 * MARGIN - GAP + sum(block.height for block in blocks)), PAPER)
    top = MARGIN
    for block in blocks:
        picture.paste(block, (0, top))
        top += block.height
    save(picture, path)


def grid(count: int) -> int:
    """Columns for one query's `count` images: as near to a square as it goes, 9 -> 3 x 3, at most 8."""
    return max(1, min(8, math.ceil(math.sqrt(count))))


def _block(row: Row, columns: int, width: int) -> Image.Image:
    """One row: its title, wrapped, above its cells, wrapped at `columns`."""
    title, small = font(TITLE_SIZE), font(CAPTION_SIZE)
    lines = wrap(row.title, title, width - 2 * MARGIN)
    head = len(lines) * round(TITLE_SIZE * 1.3) + 8
    captions = [wrap(cell.caption, small, CELL, lines=CAPTION_LINES) for cell in row.cells]
    line_height = round(CAPTION_SIZE * 1.3)
    step = CELL + max(map(len, captions), default=1) * line_height + PAD + GAP
    block = Image.new("RGB", (width, head + math.ceil(len(row.cells) / columns) * step + PAD), PAPER)
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        pen.text((MARGIN, number * round(TITLE_SIZE * 1.3)), line, INK, title)
    for number, cell in enumerate(row.cells):
        x = MARGIN + number % columns * (CELL + GAP)
        y = head + number // columns * step
        block.paste(tile(cell), (x, y))
        for line, text in enumerate(captions[number]):
            at = (x + CELL / 2, y + CELL + PAD + line * line_height)
            pen.text(at, text, cell.frame or MUTED, small, anchor="ma")
    return block


def tile(cell: Cell) -> Image.Image:
    """The whole image, centred on a square of CELL pixels, framed where the cell asks for it."""
    try:
        image = open_rgb(cell.image)
    except ImageError as error:
        raise CliplineError(f"{cell.image}: {error}") from error
    inner = CELL - 2 * FRAME if cell.frame else CELL
    image = ImageOps.contain(image, (inner, inner), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (CELL, CELL), MAT)
    tile.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    if cell.frame:
        ImageDraw.Draw(tile).rectangle((0, 0, CELL - 1, CELL - 1), outline=cell.frame, width=FRAME)
    return tile


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int = 3) -> list[str]:
    """Break `text` at spaces (a long word anywhere) into at most `lines` lines of `width` pixels."""
    out = [""]
    for word in text.split():
        longer = f"{out[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            out[-1] = longer
            continue
        if out[-1]:
            out.append("")
        for letter in word:
            if out[-1] and font.getlength(out[-1] + letter) > width:
                out.append("")
            out[-1] += letter
    if len(out) <= lines:
        return out
    last = out[lines - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return [*out[: lines - 1], last + "..."]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans (Greek, Cyrillic, accents): matplotlib's copy, else the system's, else Pillow's own font.

    Pillow's own font knows ASCII alone; other letters then show as boxes.
    """
    found = importlib.util.find_spec("matplotlib")
    folders = [Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"] if found and found.origin else []
    for name in (*(str(folder / "DejaVuSans.ttf") for folder in folders), "DejaVuSans.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


# Pixels of a side: WebP's format and the JPEG library hold no more.
LONGEST = {"WEBP": 16_383, "JPEG": 65_500}


def save(picture: Image.Image, path: Path) -> None:
    """Write `picture` as the kind that `path` ends in, whole or not at all.

    Raises UsageError where it is too large for that kind, and CliplineError where it cannot be written.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    if max(picture.size) > LONGEST.get(kind, max(picture.size)):
        width, height = picture.size
        raise UsageError(
            f"{path}: a {kind} has at most {LONGEST[kind]:,} pixels a side, and the picture is {width:,} x {height:,}. "
            "Fix: let the name end in .png, or show fewer images"
        )
    with output(path) as file:
        picture.save(file, format=kind, quality=92)
