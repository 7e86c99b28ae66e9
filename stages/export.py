"""Export: models/checkpoint -> models/onnx, reports/export.json; fails where the graphs disagree with torch."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from clipline import tracking
from clipline.config.run import Run, load_run
from clipline.data.prepared import Prepared, Split
from clipline.errors import CliplineError, first_line
from clipline.export.export import export_model
from clipline.train import checkpoint
from stages.common import run_stage, say

CHECKPOINT, ONNX, RECEIPT = Path("models/checkpoint"), Path("models/onnx"), Path("models/run.json")
REPORT = Path("reports/export.json")


def main() -> None:
    """Export both graphs, measure them against torch, and log them into the model's run."""
    run, data, images = load_run(), Prepared(Path("data/prepared")), Path("data/raw/images")
    try:
        report = export_model(CHECKPOINT, checkpoint.load(CHECKPOINT), data, images, ONNX, run.params.export)
    except CliplineError as error:
        _log_failure(run, error)
        raise
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    with _resumed(run) as tracked:
        tracked.log_metrics(figures(report), step=0)
        tracked.log_artifact(REPORT)
        tracked.log_bundle(ONNX, tags={"test_fingerprint": fingerprint(data.split("test"), images)})
        tracked.set_tags({"gates": "passed"})
    for name in ("image", "text"):
        for precision, found in report[name].items():
            say(in_words(name if precision == "fp32" else f"{name}.{precision}", found))
    say(f"R@1 onnxruntime less torch: {report['test']['delta_r1']}")


def _resumed(run: Run) -> AbstractContextManager[tracking.Run]:
    experiment = run.params.tracking.experiment
    return tracking.resume(RECEIPT, experiment=experiment, stage="export", history=Path("reports/train.csv"))


def _log_failure(run: Run, error: CliplineError) -> None:
    """Leave in the run why its model may not be promoted; a store that cannot be used must not hide `error`."""
    try:
        with _resumed(run) as tracked:
            tracked.set_tags({"gates": f"failed: {first_line(error)}"})
            raise error
    except tracking.TrackingError as unusable:
        say(str(unusable))
    except CliplineError:
        return


def figures(report: dict[str, Any]) -> dict[str, float]:
    """The metrics of reports/export.json: R@k of the exported graphs, parity of each, R@1 of the other precisions."""
    metrics = {f"onnx_{name}": value for name, value in report["test"]["onnx"].items()}
    for graph in ("image", "text"):
        metrics |= {f"{graph}_{key}": report[graph]["fp32"][key] for key in ("min_cosine", "max_abs")}
    for precision, found in report["image"].items():
        if precision != "fp32" and "test" in found:
            metrics |= {f"onnx_{precision}_{key}": found["test"][key] for key in ("i2t_r1", "t2i_r1")}
            metrics[f"image_{precision}_min_cosine"] = found["min_cosine"]
    return metrics


def fingerprint(split: Split, images: Path) -> str:
    """Hash of the split's image files and captions: R@k of models can be compared where it is the same.

    Not the dataset's fingerprint: that one covers pixels and tokens, which are another recipe's as soon as its image
    size or its tokenizer is another. images: folder of the raw files.
    """
    digest = hashlib.sha256()
    captions = zip(split.caption_image, split.captions, strict=True)
    texts = sorted((split.image_names[image], caption) for image, caption in captions)
    for name in sorted(split.image_names):
        digest.update(f"{name}\0".encode() + hashlib.sha256((images / name).read_bytes()).digest())
    for name, caption in texts:
        digest.update(f"{name}\0{caption}\0".encode())
    return digest.hexdigest()[:16]


def in_words(name: str, figures: dict[str, Any]) -> str:
    """One line on one graph of reports/export.json."""
    words = f"{name}.onnx: "
    if not figures["shipped"]:
        words += f"not shipped: {figures['why']}. "
    if "min_cosine" in figures:
        words += (
            f"min cosine {figures['min_cosine']:.7f}, max abs {figures['max_abs']:.1e}, {figures['bytes'] / 1e6:.1f} MB"
        )
    if "images_per_second" in figures:
        words += f", {figures['images_per_second']:,} images/s on this CPU"
    if "delta_r1" in figures:
        words += ", R@1 less fp32's " + " and ".join(f"{value:+}" for value in figures["delta_r1"].values())
    if figures.get("layers_in_float"):
        words += f", {len(figures['layers_in_float'])} of {figures['layers']} layers in float"
    return words


if __name__ == "__main__":
    run_stage(main)
