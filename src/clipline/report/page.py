"""reports/index.html: one model on one page, which needs no other file, no script and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipline.data.prepared import Prepared
from clipline.pictures import thumbnails
from clipline.report import phrases
from clipline.report.examples import Example
from clipline.report.summary import RunSummary
from clipline.report.templates import fill

SAMPLE = 12  # training images on the page
PICTURES = {
    "curves": "reports/curves.png",
    "recall": "reports/recall.png",
    "similarity": "reports/similarity.png",
    "words": "reports/words.png",
    "lengths": "data/prepared/caption_lengths.png",
}


def render(summary: RunSummary, data: Prepared, root: Path) -> str:
    """The page as HTML text. root: the folder of reports/ and data/. Raises CliplineError where a picture is missing.

    Captions are untrusted text: jinja2 escapes every value.
    """
    images = {name: thumbnails.of_image(root / "data/raw/images" / name) for name in _image_names(summary)}
    return fill(
        "page.html.j2",
        escape=True,
        summary=summary,
        phrases=phrases,
        pictures={name: thumbnails.of_png(root / path) for name, path in PICTURES.items()},
        images=images,
        sample=sample(data),
        rows=results(summary),
    )


def results(summary: RunSummary) -> list[dict[str, Any]]:
    """Rows of the results table: this model as trained and as exported, and published models."""
    rows = [
        {"name": f"{summary.info['recipe']} (torch)", "own": True, "values": phrases.recalls(summary.test)},
        {"name": f"{summary.info['recipe']} (ONNX, fp32)", "own": True, "values": phrases.recalls(summary.exported)},
    ]
    for precision, measured in summary.export["image"].items():
        if precision != "fp32" and measured["shipped"]:
            name = f"{summary.info['recipe']} (ONNX, images in {precision})"
            rows.append({"name": name, "own": True, "values": phrases.recalls(measured["test"])})
    published = summary.references["models"] if summary.references else []
    return rows + [{"name": row["name"], "own": False, "values": [*row["i2t"], *row["t2i"]]} for row in published]


def sample(data: Prepared) -> list[tuple[str, list[str]]]:
    """Some training images (a fixed random sample) as data URIs, with their captions."""
    split = data.split("train")
    count = min(SAMPLE, len(split.image_names))
    sampled = sorted(np.random.default_rng(0).choice(len(split.image_names), count, replace=False))
    return [
        (
            thumbnails.of_pixels(np.asarray(split.images[split.image_rows[row]])),
            [split.captions[caption] for caption in np.flatnonzero(split.caption_image == row)],
        )
        for row in sampled
    ]


def _image_names(summary: RunSummary) -> list[str]:
    """The test images on the page, each once."""
    groups: tuple[list[Example], ...] = (summary.examples.sample, summary.examples.captions, summary.examples.images)
    return list(dict.fromkeys(hit.image for group in groups for example in group for hit in example.hits))
