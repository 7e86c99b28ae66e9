"""Choose the searches worth looking at, a fixed sample and the worst failures, and draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipline.data.prepared import Split
from clipline.evaluation import Embedded
from clipline.pictures import gallery
from clipline.report.examples import Example, Examples, Hit

# Okabe and Ito's blue and vermilion: told apart by colour-blind readers, and the words say it as well.
RIGHT, WRONG = "#0072B2", "#D55E00"


def choose(
    embedded: Embedded, split: Split, ranks: tuple[np.ndarray, np.ndarray], *, queries: int, top: int
) -> Examples:
    """`queries` random captions, as many worst ones and half as many worst images, with `top` images each.

    ranks: int64 [n] of images and int64 [m] of captions, as `retrieval.both_ranks` gives them. Only what is not
    found first can fail, and an image fails once, however many of its captions do.
    """
    i2t, t2i = ranks
    sample = np.random.default_rng(0).choice(len(t2i), min(queries, len(t2i)), replace=False)
    worst, seen = [], set()
    for caption in _last(t2i):
        if len(worst) < queries and (image := int(split.caption_image[caption])) not in seen:
            worst.append(caption)
            seen.add(image)
    return Examples(
        sample=[_by_caption(embedded, split, t2i, row, top) for row in sample],
        captions=[_by_caption(embedded, split, t2i, row, top, own_first=True) for row in worst],
        images=[_by_image(embedded, split, i2t, row, top) for row in _last(i2t)[: max(1, queries // 2)]],
    )


def _last(found: np.ndarray) -> np.ndarray:
    """Queries in order of failure, the worst first, without those that found theirs at once."""
    order = np.argsort(-found, kind="stable")
    return order[found[order] > 0]


def _by_caption(
    embedded: Embedded, split: Split, t2i: np.ndarray, row: int, top: int, own_first: bool = False
) -> Example:
    scores = embedded.images @ embedded.texts[row]
    own, place = int(split.caption_image[row]), int(t2i[row]) + 1

    def hit(image: int, number: int) -> Hit:
        right = image == own
        return Hit(split.image_names[image], round(float(scores[image]), 4), right, place if right else number)

    # One more than is shown: the right image may be among them, and then stands before them.
    best = np.argsort(-scores, kind="stable")[: top + own_first]
    found = [hit(int(image), number) for number, image in enumerate(best, start=1)]
    if own_first:
        found = [hit(own, place), *(other for other in found if not other.right)][:top]
    return Example(split.captions[row], place, len(embedded.images), found)


def _by_image(embedded: Embedded, split: Split, i2t: np.ndarray, row: int, top: int) -> Example:
    scores = embedded.texts @ embedded.images[row]
    own = np.flatnonzero(split.caption_image == row)
    own = own[np.argsort(-scores[own], kind="stable")]
    place = int(i2t[row]) + 1
    best = int(own[0])
    hits = [Hit(split.image_names[row], round(float(scores[best]), 4), True, place, split.captions[best])]
    for number, caption in enumerate(np.argsort(-scores, kind="stable"), start=1):
        image = int(split.caption_image[caption])
        if len(hits) == top:
            break
        if image != row:
            name, score = split.image_names[image], round(float(scores[caption]), 4)
            hits.append(Hit(name, score, False, number, split.captions[caption]))
    return Example(" / ".join(split.captions[caption] for caption in own), place, len(embedded.texts), hits)


def draw_sample(examples: Examples, images: Path, path: Path) -> None:
    """The picture of the sample: the right image framed blue, others orange."""
    gallery.draw([_row(example, example.query, images) for example in examples.sample], path)


def draw_failures(examples: Examples, images: Path, path: Path) -> None:
    """The picture of the worst failures, captions before images; the right image stands first in each row."""
    rows = [
        *(
            _row(example, f"“{example.query}” finds its own image (first here) at {example.verdict}", images)
            for example in examples.captions
        ),
        *(
            _row(example, f"An image (first here) that finds the best of its own captions at {example.verdict}", images)
            for example in examples.images
        ),
    ]
    gallery.draw(rows or [gallery.Row("Every caption and every image finds its own at once", [])], path)


def _row(example: Example, title: str, images: Path) -> gallery.Row:
    return gallery.Row(title, [_cell(hit, images) for hit in example.hits])


def _cell(hit: Hit, images: Path) -> gallery.Cell:
    caption = f"{'right, ' if hit.right else ''}place {hit.place:,}, {hit.score:.3f}"
    if hit.text is not None:
        caption += f": {hit.text}"
    return gallery.Cell(images / hit.image, caption, RIGHT if hit.right else WRONG)
