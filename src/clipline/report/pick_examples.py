"""Pick the searches to show, a fixed sample and the worst failures, and draw them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from clipline.data.prepared import Split
from clipline.evaluation import Embedded
from clipline.pictures import gallery
from clipline.report.examples import Example, Examples, Hit

# Okabe and Ito's blue and vermilion, which colour-blind readers can tell apart; the captions say it in words too.
RIGHT, WRONG = "#0072B2", "#D55E00"


def pick_examples(
    embedded: Embedded, split: Split, ranks: tuple[np.ndarray, np.ndarray], *, queries: int, top: int
) -> Examples:
    """Pick `queries` random captions, as many failing captions and half as many failing images, with `top` hits each.

    ranks: int64 [n] of the images and int64 [m] of the captions, as `retrieval.both_ranks` returns them. A query fails
    where its right answer is not first; of several failing captions of one image only the worst is picked.
    """
    i2t, t2i = ranks
    sample = np.random.default_rng(0).choice(len(t2i), min(queries, len(t2i)), replace=False)
    worst: dict[int, int] = {}  # image -> caption
    for caption in _failures(t2i):
        if len(worst) < queries:
            worst.setdefault(int(split.caption_image[caption]), caption)
    return Examples(
        sample=[_by_caption(embedded, split, t2i, row, top) for row in sample],
        captions=[_by_caption(embedded, split, t2i, row, top, own_first=True) for row in worst.values()],
        images=[_by_image(embedded, split, i2t, row, top) for row in _failures(i2t)[: max(1, queries // 2)]],
    )


def _failures(ranks: np.ndarray) -> np.ndarray:
    """The queries whose right answer is not first, the worst first. ranks: int64 [n], 0 is first."""
    order = np.argsort(-ranks, kind="stable")
    return order[ranks[order] > 0]


def _by_caption(
    embedded: Embedded, split: Split, t2i: np.ndarray, row: int, top: int, own_first: bool = False
) -> Example:
    scores = embedded.images @ embedded.texts[row]
    own, rank = int(split.caption_image[row]), int(t2i[row]) + 1

    def hit(image: int, number: int) -> Hit:
        right = image == own
        return Hit(split.image_names[image], round(float(scores[image]), 4), right, rank if right else number)

    # One more than is shown: the right image may be among them, and is then moved before them.
    best = np.argsort(-scores, kind="stable")[: top + own_first]
    hits = [hit(int(image), number) for number, image in enumerate(best, start=1)]
    if own_first:
        hits = [hit(own, rank), *(other for other in hits if not other.right)][:top]
    return Example(split.captions[row], rank, len(embedded.images), hits)


def _by_image(embedded: Embedded, split: Split, i2t: np.ndarray, row: int, top: int) -> Example:
    scores = embedded.texts @ embedded.images[row]
    order = np.argsort(-scores, kind="stable")
    is_own = split.caption_image[order] == row

    def hit(caption: int, number: int) -> Hit:
        image = int(split.caption_image[caption])
        score = round(float(scores[caption]), 4)
        return Hit(split.image_names[image], score, image == int(row), number, split.captions[caption])

    rank, own = int(i2t[row]) + 1, order[is_own]
    others = (hit(caption, number) for number, caption in enumerate(order, start=1) if not is_own[number - 1])
    query = " / ".join(split.captions[caption] for caption in own)
    return Example(query, rank, len(embedded.texts), [hit(own[0], rank), *islice(others, top - 1)])


def draw_sample(examples: Examples, images: Path, path: Path) -> None:
    """Draw the sample to `path`: the right image with a blue frame, others with an orange one.

    images: the folder of the image files.
    """
    gallery.draw([_row(example, example.query, images) for example in examples.sample], path)


def draw_failures(examples: Examples, images: Path, path: Path) -> None:
    """Draw the worst failures to `path`, captions before images; the right image is the first of each row."""
    caption = "“{query}” finds its own image (first here) at {rank}"
    image = "An image (first here) finds the best of its own captions at {rank}"
    rows = [
        _row(example, title.format(query=example.query, rank=example.verdict), images)
        for title, failures in ((caption, examples.captions), (image, examples.images))
        for example in failures
    ]
    gallery.draw(rows or [gallery.Row("Every caption and every image finds its own at once", [])], path)


def _row(example: Example, title: str, images: Path) -> gallery.Row:
    return gallery.Row(title, [_cell(hit, images) for hit in example.hits])


def _cell(hit: Hit, images: Path) -> gallery.Cell:
    caption = f"{'right, ' if hit.right else ''}rank {hit.place:,}, {hit.score:.3f}"
    if hit.text is not None:
        caption += f": {hit.text}"
    return gallery.Cell(images / hit.image, caption, RIGHT if hit.right else WRONG)
