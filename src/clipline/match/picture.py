"""Draw some questions: the image, the captions to choose from, and which the model picked. Pillow only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clipline.match.captions import Captioned
from clipline.match.quiz import Quiz
from clipline.pictures import gallery
from clipline.pictures.gallery import save

GREEN, RED = "#18783c", "#b3261e"
PALE = {GREEN: "#e3f3e8", RED: "#fbe9e7", gallery.INK: gallery.PAPER}
WIDTH = 560  # of the captions, in pixels
SIZE, LINE, PAD = 15, 20, 8
# Words as well as colours: one man in twelve cannot tell red from green.
PICKED_RIGHT, PICKED_WRONG, MISSED = "picked: right", "picked: wrong", "the right one"


@dataclass(frozen=True)
class _Option:
    lines: list[str]
    probability: float
    mark: str
    colour: str

    @property
    def height(self) -> int:
        return max(len(self.lines) + bool(self.mark), 1) * LINE + PAD


def draw(quiz: Quiz, data: Captioned, count: int, seed: int, path: Path) -> None:
    """Draw `count` questions, each of another image, chosen with `seed`. Raises CliplineError."""
    rows = _pick_questions(quiz, count, seed)
    blocks = [_block(quiz, data, row) for row in rows]
    right = int(quiz.right[rows].sum())
    title = (
        f"{right} of these {len(rows)} right; {quiz.accuracy:.1f}% of {len(quiz.answers):,} questions "
        f"(by chance {quiz.chance:.1f}%)"
    )
    head = gallery.MARGIN + 44
    width = 2 * gallery.MARGIN + gallery.CELL + gallery.GAP + WIDTH
    picture = Image.new("RGB", (width, head + sum(block.height for block in blocks) + gallery.MARGIN), gallery.PAPER)
    ImageDraw.Draw(picture).text(
        (gallery.MARGIN, gallery.MARGIN), title, gallery.INK, gallery.font(gallery.TITLE_SIZE - 2)
    )
    top = head
    for block in blocks:
        picture.paste(block, (gallery.MARGIN, top))
        top += block.height
    save(picture, path)


def _pick_questions(quiz: Quiz, count: int, seed: int) -> np.ndarray:
    """Rows of questions, each of another image."""
    order = np.random.default_rng(seed).permutation(len(quiz.images))
    _, first = np.unique(quiz.images[order], return_index=True)
    return order[np.sort(first)[:count]]


def _block(quiz: Quiz, data: Captioned, row: int) -> Image.Image:
    """One question: the image, in a frame whose colour says whether the answer is right, and its options."""
    options = _options(quiz, data, row)
    right = bool(quiz.right[row])
    height = max(gallery.CELL, sum(option.height for option in options)) + gallery.GAP
    block = Image.new("RGB", (gallery.CELL + gallery.GAP + WIDTH, height), gallery.PAPER)
    image = data.folder / data.names[quiz.images[row]]
    block.paste(gallery.tile(gallery.Cell(image, frame=GREEN if right else RED)), (0, 0))
    pen, small = ImageDraw.Draw(block), gallery.font(SIZE)
    left, y = gallery.CELL + gallery.GAP, 0
    for option in options:
        pen.rectangle((left, y, left + WIDTH - 1, y + option.height - 4), fill=PALE[option.colour])
        pen.rectangle((left, y, left + 4, y + option.height - 4), fill=option.colour if option.mark else gallery.MAT)
        pen.text((left + 58, y + 3), f"{100 * option.probability:.0f}%", option.colour, small, anchor="ra")
        for number, text in enumerate(option.lines):
            pen.text((left + 70, y + 3 + number * LINE), text, option.colour, small)
        if option.mark:
            pen.text((left + 70, y + 3 + len(option.lines) * LINE), option.mark, option.colour, gallery.font(13))
        y += option.height
    return block


def _options(quiz: Quiz, data: Captioned, row: int) -> list[_Option]:
    shares, answer = quiz.probabilities[row], int(quiz.answers[row])
    # With a tie the true one is not picked, as in `Quiz.right`.
    picked = answer if quiz.right[row] else int(np.argmax(np.where(np.arange(len(shares)) == answer, -1, shares)))
    options = []
    for position, caption in enumerate(quiz.choices[row]):
        mark, colour = "", gallery.INK
        if position == answer:
            mark, colour = (PICKED_RIGHT if picked == answer else MISSED), GREEN
        elif position == picked:
            mark, colour = PICKED_WRONG, RED
        lines = gallery.wrap(data.captions[caption], gallery.font(SIZE), WIDTH - 80)
        options.append(_Option(lines, float(shares[position]), mark, colour))
    return options
