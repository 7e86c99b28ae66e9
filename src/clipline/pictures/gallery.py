"""Draw galleries: titles (such as queries) above their images, each with an optional caption and frame.

Needs Pillow only, so that `clipline search --gallery` works without matplotlib.
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

CELL = 224  # side in pixels of the square that an image is fitted into
GAP, MARGIN, FRAME, PAD = 14, 24, 6, 6
TITLE_SIZE, CAPTION_SIZE = 21, 15
CAPTION_LINES = 4
PAPER, INK, MUTED, MAT = "white", "#1c1c1e", "#5f6368", "#f1f2f4"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Cell:
    """One image. caption: text below it, at most CAPTION_LINES lines. frame: a colour, or None for no frame."""

    image: Path
    caption: str = ""
    frame: str | None = None


@dataclass(frozen=True)
class Row:
    """A title, such as a query, and its images, best first."""

    title: str
    cells: list[Cell]


def check_path(path: Path) -> None:
    """Raise UsageError unless `draw` can write the format that `path` ends in; call it before long work."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a picture's name ends in one of {', '.join(SUFFIXES)}")


def draw(rows: Sequence[Row], path: Path, *, columns: int | None = None) -> None:
    """Draw `rows` below each other and write the picture to `path`.

    columns: the number of images after which a row wraps; None keeps every row on one line. Raises UsageError for a
    `path` of another format, and CliplineError where an image cannot be read or the picture cannot be written.
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
    """The number of columns for `count` images that makes them nearly a square, at most 8: 9 images -> 3 x 3."""
    return max(1, min(8, math.ceil(math.sqrt(count))))


def _block(row: Row, columns: int, width: int) -> Image.Image:
    """One row: its wrapped title above its cells, which wrap after `columns`."""
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
    """The uncropped image, centred on a square of CELL pixels, with the frame that the cell names."""
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
    """Break `text` at spaces, and long words anywhere, into at most `lines` lines of `width` pixels."""
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
    """DejaVu Sans (Greek, Cyrillic, accents) from matplotlib, else from the system, else Pillow's default font.

    Pillow's default font has ASCII only; other letters appear as boxes.
    """
    spec = importlib.util.find_spec("matplotlib")
    bundled = [Path(spec.origin).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf"] if spec and spec.origin else []
    for file in (*bundled, "DejaVuSans.ttf"):
        try:
            return ImageFont.truetype(file, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


# The most pixels of a side that WebP's format and the JPEG library allow.
MAX_SIDE = {"WEBP": 16_383, "JPEG": 65_500}


def save(picture: Image.Image, path: Path) -> None:
    """Write `picture` atomically, in the format that `path` ends in.

    Raises UsageError where it is too large for that format, and CliplineError where it cannot be written.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    if max(picture.size) > MAX_SIDE.get(kind, math.inf):
        width, height = picture.size
        raise UsageError(
            f"{path}: a {kind} has at most {MAX_SIDE[kind]:,} pixels a side, and the picture is {width:,} x "
            f"{height:,}. Fix: let the name end in .png, or show fewer images"
        )
    with output(path) as file:
        picture.save(file, format=kind, quality=92)
