"""reports/index.html: everything about one model on a page that needs no other file, no script and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipline.data.prepared import Prepared
from clipline.pictures import thumbnails
from clipline.report import phrases
from clipline.report.examples import Example
from clipline.report.facts import Facts
from clipline.report.templates import fill

SAMPLE = 12  # training images that are shown
PICTURES = {
    "curves": "reports/curves.png",
    "recall": "reports/recall.png",
    "similarity": "reports/similarity.png",
    "words": "reports/words.png",
    "lengths": "data/prepared/caption_lengths.png",
}


def render(facts: Facts, data: Prepared, root: Path) -> str:
    """The page as text. root: where reports/ and data/ lie. Raises CliplineError where a picture is missing.

    Captions are whatever a stranger wrote: jinja2 escapes everything.
    """
    images = {name: thumbnails.of_image(root / "data/raw/images" / name) for name in _shown(facts)}
    return fill(
        "page.html.j2",
        escape=True,
        facts=facts,
        phrases=phrases,
        pictures={name: thumbnails.of_png(root / path) for name, path in PICTURES.items()},
        images=images,
        sample=sample(data),
        rows=results(facts),
    )


def results(facts: Facts) -> list[dict[str, Any]]:
    """Rows of the table of results: this model, as trained and as exported, and what is published."""
    rows = [
        {"name": f"{facts.info['recipe']} (torch)", "own": True, "values": phrases.recalls(facts.test)},
        {"name": f"{facts.info['recipe']} (ONNX, fp32)", "own": True, "values": phrases.recalls(facts.exported)},
    ]
    for precision, figures in facts.export["image"].items():
        if precision != "fp32" and figures["shipped"]:
            name = f"{facts.info['recipe']} (ONNX, images in {precision})"
            rows.append({"name": name, "own": True, "values": phrases.recalls(figures["test"])})
    published = facts.references["models"] if facts.references else []
    return rows + [{"name": row["name"], "own": False, "values": [*row["i2t"], *row["t2i"]]} for row in published]


def sample(data: Prepared) -> list[tuple[str, list[str]]]:
    """A few training images, the same in each run, as data URIs with their captions."""
    split = data.split("train")
    count = min(SAMPLE, len(split.image_names))
    chosen = sorted(np.random.default_rng(0).choice(len(split.image_names), count, replace=False))
    return [
        (
            thumbnails.of_pixels(np.asarray(split.images[split.image_rows[row]])),
            [split.captions[caption] for caption in np.flatnonzero(split.caption_image == row)],
        )
        for row in chosen
    ]


def _shown(facts: Facts) -> list[str]:
    groups: tuple[list[Example], ...] = (facts.examples.sample, facts.examples.captions, facts.examples.images)
    return list(dict.fromkeys(hit.image for group in groups for example in group for hit in example.hits))
